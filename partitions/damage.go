package partitions

import (
	"errors"

	"logbroker/partitions/commitlog"
)

// Damage is what a replica's files or Raft log were found to hold instead of what
// was written.
type Damage struct {
	Shard, Replica uint64
	Topic          string
	Partition      int32
	// FoundBy is "read", "scrub" or "start".
	FoundBy string
	// Err names the file, and the place in it.
	Err error
}

// damaged ends this replica's service: what cannot be trusted is neither served
// nor used again, until it is repaired. The node and its other replicas go on, and so does the
// replica's part in Raft, whose log is another one. Of many readers that meet the
// damage the first says so, once.
func (p *Partition) damaged(foundBy string, err error) {
	p.mu.Lock()
	first := p.state == StateRunning
	if first {
		p.state, p.failed, p.serving = StateDamaged, err, false
	}
	p.mu.Unlock()
	if !first {
		return
	}
	p.host.leadershipChanged(p)
	p.stir()
	p.waiters.wakeAll()
	at := new(commitlog.DamageError)
	if !errors.As(err, &at) {
		at.Reason = err.Error()
	}
	p.logger.Error("damage found: this replica serves nothing any more until it is repaired or replaced",
		"found_by", foundBy, "file", at.File, "position", at.Position, "reason", at.Reason)
	p.host.repairWanted(p)
	p.tellDamage(foundBy, err)
}

// damagedAtStart tells of what is wrong with a replica that is being started.
func (p *Partition) damagedAtStart(err error) { p.tellDamage("start", err) }

func (p *Partition) tellDamage(foundBy string, err error) {
	p.options.OnDamage(Damage{
		Shard: p.spec.Shard, Replica: p.spec.Replica, Topic: p.spec.Topic, Partition: p.spec.Partition,
		FoundBy: foundBy, Err: err,
	})
}
