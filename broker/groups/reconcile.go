package groups

// reconcile brings ownership as near to the targets as it may come, and reports
// whether it changed anything.
//
// This is the rule that no partition has two owners: a partition that its member
// should not have is marked to be given up and stays that member's; a member is
// granted only what nobody owns. Nothing else in this package grants.
func (g *group) reconcile() {
	next := g.epoch + 1
	changed := map[string]bool{}
	ids := g.memberIDs()
	for _, id := range ids {
		if g.members[id].mark(next) {
			changed[id] = true
		}
	}
	for _, id := range ids {
		if g.grant(g.members[id], next) {
			changed[id] = true
		}
	}
	if len(changed) == 0 {
		return
	}
	g.epoch = next
	for id := range changed {
		g.members[id].epoch = next
	}
}

// mark notes what m is to give up, and what it may keep after all.
func (m *member) mark(epoch int32) (changed bool) {
	wanted := make(map[Partition]bool, len(m.target))
	for _, p := range m.target {
		wanted[p] = true
	}
	for p, o := range m.owned { // each on its own: the order does not matter
		switch {
		case wanted[p] && o.revoked != 0:
			o.revoked = 0
		case !wanted[p] && o.revoked == 0:
			o.revoked = epoch
		default:
			continue
		}
		m.owned[p] = o
		changed = true
	}
	return changed
}

// grant gives m what it should have and nobody owns.
func (g *group) grant(m *member, epoch int32) (changed bool) {
	for _, p := range m.target {
		if _, owned := g.owners[p]; owned {
			continue
		}
		g.owners[p] = m.id
		m.owned[p] = ownership{granted: epoch}
		changed = true
	}
	return changed
}

// release takes p from its owner, who has given it up or is none any more.
func (g *group) release(m *member, p Partition) {
	delete(m.owned, p)
	delete(g.owners, p)
}
