package consumer

import (
	"errors"

	"logbroker/internal/errcode"
)

// loss is an event that took partitions away from this member: the end of its
// membership, or of the time to give them up. Marks that it dropped are told of
// by one Commit. Consumer.mu guards it.
type loss struct {
	err error
	// told: a Commit has returned it, or a later loss stands for it.
	told bool
}

// lost notes that marks were dropped by l. c.mu is held.
func (c *Consumer) lost(l *loss) {
	if l.told || c.untold == l {
		return
	}
	if c.untold != nil {
		c.untold.told = true
	}
	c.untold = l
}

// withLoss adds to the outcome of a commit what was dropped since the last one,
// once.
func (c *Consumer) withLoss(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.claims == nil && err == nil {
		err = ErrClosed
	}
	l := c.untold
	if l == nil {
		return err
	}
	c.untold, l.told = nil, true
	switch {
	case err == nil:
		return l.err
	case errors.Is(err, l.err): // it is this loss that the commit has run into
		return err
	}
	return errors.Join(err, l.err)
}

// fence drops the marks of everything owned, after a commit was refused because
// that ownership is over. The membership finds out by itself. It returns what
// the commit ends with.
func (c *Consumer) fence(ownership uint64, refusal error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ownership != ownership {
		return refusal
	}
	claims := make([]*claim, 0, len(c.claims))
	for _, cl := range c.claims {
		claims = append(claims, cl)
	}
	return c.drop(claims, errcode.Of(refusal), refusal.Error()).err
}

// drop makes the marks of claims count for nothing from now on. c.mu is held.
func (c *Consumer) drop(claims []*claim, code errcode.Code, why string) *loss {
	l := &loss{err: errcode.New(code, "group %q: what was marked and not committed comes again: %s", c.group, why)}
	for _, cl := range claims {
		if cl.void(l) {
			c.lost(l)
		}
	}
	return l
}

// void makes every mark from now on count for nothing, because of l. It reports
// whether marks are dropped by that.
func (cl *claim) void(l *loss) (dropped bool) {
	cl.feed.mu.Lock()
	defer cl.feed.mu.Unlock()
	m := cl.feed.marks
	if m.void { // by an earlier loss
		return false
	}
	m.void, m.lost = true, l
	if m.idle != nil {
		signal(m.idle)
	}
	return m.dirty && m.low > m.from
}
