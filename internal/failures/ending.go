package failures

import (
	"context"
	"errors"

	"logbroker/internal/raftnode/chantransport"
)

// The second half of the stories, which is much the same in all of them: somebody
// else leads, the producer sends again, the old leader comes back.

// succeed is the election of a new leader where nothing more is to be said.
func (p *play) succeed() {
	p.do("B and C hear no heartbeats from A. After an election time-out, a random one, one of them stands for election; the other votes for it. "+
		"Two of three are a majority: there is a new leader, in a new term.", p.elect)
}

// retry waits until the batches are acked.
func (p *play) retry(event string, before ...func() error) {
	p.do(event, append(before, func() error {
		return p.until("the producer has its acks", p.ackedAll(p.client, p.batches))()
	})...)
}

// comeBackAndFollow brings A back and ends the story. withItsLog says what A has
// when it has started again and not heard from the others yet.
func (p *play) comeBackAndFollow(withItsLog string) {
	if p.settings.Fault == Crash {
		p.do(withItsLog, p.alone, p.startAgain)
		p.follow()
	} else {
		p.do("Ten election time-outs later A goes on as if nothing had happened, and gets all that was sent to it meanwhile. "+
			"It hears of a newer term, so it follows; what its log has and the leader's has not is replaced.",
			p.until("ten election time-outs have gone by", p.tenTimeouts),
			p.goOn,
			p.until("the replicas are the same", p.same))
	}
	p.finish()
}

// follow lets A hear the others again.
func (p *play) follow() {
	p.do("A hears from the new leader, of a newer term. So it follows, and makes its log the same: what it has and the leader has not is replaced, what it lacks is added.",
		p.hear,
		p.until("the replicas are the same", p.same))
}

func (p *play) finish() {
	p.do("All three replicas have the same log again.", p.until("the replicas are the same", p.same))
}

// alone keeps A's replica of the partition from hearing anything, so that its log
// can be looked at.
func (p *play) alone() error {
	p.rules.set(func(r *rules) { r.alone, r.lose = p.a.info.RaftAddr, nil })
	p.mayStand() // everybody
	return nil
}

func (p *play) hear() error {
	p.rules.set(func(r *rules) { r.alone = "" })
	return nil
}

// startAgain starts A from its disk.
func (p *play) startAgain() error {
	p.mend()
	if err := p.restart(p.ctx, p.a); err != nil {
		return err
	}
	return p.await(p.ctx, "A has its log", func() bool { return p.status(p.a).Last > 0 })
}

// goOn ends A's standing still.
func (p *play) goOn() error {
	p.rules.set(func(r *rules) { r.lose = nil })
	p.mayStand() // everybody
	p.mend()
	p.resume(p.a)
	return nil
}

// beats returns how many heartbeats the new leader has sent to followers that may
// hear it.
func (p *play) beats() (now int) {
	if leader := p.leader(); leader != nil {
		p.rules.set(func(r *rules) { now = r.beats[leader.info.RaftAddr] })
	}
	return now
}

// tenTimeouts: as many heartbeats have been sent since the election as go into ten
// election time-outs.
func (p *play) tenTimeouts() bool { return p.beats() >= p.enough }

// onItsSide leaves a client nothing but one node.
func (p *play) onItsSide(s *sender, only *node) {
	p.wires.set(func() {
		for _, n := range p.nodes {
			if n != only {
				p.wires.apart[pairOf(s.number, n.id)] = true
			}
		}
	})
}

// sendElsewhere has another producer, which does not reach A, store a batch.
func (p *play) sendElsewhere() (err error) {
	leader := p.leader()
	if leader == nil {
		return errors.New("this is not the story: nobody leads on the majority's side")
	}
	p.wires.set(func() { p.wires.apart[pairOf(p.second(), p.a.id)] = true })
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if p.other, err = p.newSender(ctx, p.second(), leader, &p.log); err != nil {
		return err
	}
	return p.await(p.ctx, "the other producer has its ack", p.ackedAll(p.other, p.other.send(p.ctx, "other-1")))
}

// heal ends the cut; A's replica of the partition stays alone.
func (p *play) heal() error {
	if err := p.alone(); err != nil {
		return err
	}
	if p.settings.Fault == Crash {
		return p.startAgain()
	}
	p.together(p.a)
	return nil
}

// reachAll ends what is left of the cut: the producers reach all nodes.
func (p *play) reachAll() error {
	p.wires.set(func() { clear(p.wires.apart) })
	return nil
}

func either(a, b func(chantransport.Message) bool) func(chantransport.Message) bool {
	return func(m chantransport.Message) bool { return a(m) || b(m) }
}
