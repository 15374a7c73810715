package failures

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"logbroker/internal/raftnode/chantransport"
)

// Fault is how the leader fails.
type Fault int

// The faults.
const (
	// Crash ends the process, and what was not synced to its disk is gone. It
	// starts again later.
	Crash Fault = iota
	// Stop makes the process stand still for ten election time-outs: nothing goes in
	// or out, and then it goes on where it was.
	Stop
)

// String returns the fault's name.
func (f Fault) String() string {
	if f == Stop {
		return "stop"
	}
	return "crash"
}

// Step is something that happened in a play, and what the cluster looks like
// after it.
type Step struct {
	Scenario int       `json:"scenario"`
	Number   int       `json:"step"`
	Event    string    `json:"event"`
	Replicas []Replica `json:"replicas"`
	Client   Client    `json:"client"`
}

// Client is what the producers know.
type Client struct {
	// Sent and Acked count batches. Unknown of them the client does not know
	// whether they are stored: there was no answer yet.
	Sent    int `json:"sent"`
	Acked   int `json:"acked"`
	Unknown int `json:"unknown"`
}

// Settings say how a scenario is played.
type Settings struct {
	Fault Fault
	// Batches are in flight at once when the leader fails, at most 64. Default 1.
	Batches int
	// Tell is told every step, from one goroutine. An error ends the play.
	Tell func(Step) error
}

// first and second are the producers' ends of the wires: numbers above those of
// the nodes, others in each play.
func (s *stage) first() uint64  { return 100 + 2*s.plays }
func (s *stage) second() uint64 { return s.first() + 1 }

// play is a scenario that is being played. Its methods that the scenarios use are
// the words of the story: each makes something happen and returns when it has.
// The first error ends the play: what follows does nothing.
type play struct {
	*stage
	ctx      context.Context //nolint:containedctx // a play is one call
	settings Settings
	log      log
	err      error
	told     int
	// term is A's when the story has begun. Until the leader fails (failing) it must
	// stay that, and A the leader.
	term    uint64
	failing bool
	number  int // of the scenario

	// a leads at first. b and c follow.
	a, b, c *node
	called  map[*node]string
	// client is the producer; other one on the majority's side, in scenario 7.
	client, other *sender
	// batches are those that are in flight when the leader fails.
	batches []*record
	// before is the high watermark before them.
	before int64
	// enough is the number of heartbeats of the new leader after which ten election
	// time-outs have gone by since it was elected.
	enough int
}

// do runs what a sentence tells, and tells it.
func (p *play) do(event string, acts ...func() error) {
	for _, act := range acts {
		if p.err == nil {
			if p.err = act(); p.err != nil && !p.failing {
				p.err = fmt.Errorf("%w: %w", ErrNotHeld, p.err)
			}
		}
	}
	if p.err == nil && p.settings.Tell != nil {
		p.told++
		p.err = p.tell(event)
	}
}

func (p *play) tell(event string) error {
	step := Step{Scenario: p.number, Number: p.told, Event: event}
	for _, n := range p.cast() {
		r, err := p.view(n, p.called[n])
		if err != nil {
			return err
		}
		step.Replicas = append(step.Replicas, r)
	}
	for _, s := range []*sender{p.client, p.other} {
		if s != nil {
			sent, acked := s.tally()
			step.Client.Sent += sent
			step.Client.Acked += acked
			step.Client.Unknown += sent - acked
		}
	}
	return p.settings.Tell(step)
}

func (p *play) cast() []*node { return []*node{p.a, p.b, p.c} }

// until waits for ok.
func (p *play) until(what string, ok func() bool) func() error {
	return func() error {
		if err := p.await(p.ctx, what, func() bool { return ok() || p.slipped() }); err != nil {
			return err
		}
		if p.slipped() {
			return fmt.Errorf("the leader A lost its leadership while waiting until %s", what)
		}
		return nil
	}
}

// slipped: A is not the leader any more though nothing was done to it. On a slow
// machine it misses its own heartbeats.
func (p *play) slipped() bool {
	if p.failing || p.term == 0 {
		return false
	}
	s := p.status(p.a)
	return s.Role != "leader" || s.Term != p.term
}

// must demands ok now: that the stage is what the story says.
func (p *play) must(what string, ok func() bool) func() error {
	return func() error {
		if !ok() {
			return fmt.Errorf("this is not the story: it should be that %s", what)
		}
		return nil
	}
}

// begin names the nodes and stores a few records, so that the producer is
// connected to the leader and known to everybody. From then on only A may stand
// for election until the leader fails: a slow machine changes nothing.
func (p *play) begin() {
	p.err = p.await(p.ctx, "the partition has a leader", func() bool {
		i := slices.IndexFunc(p.nodes[:], func(n *node) bool { return p.status(n).Serving })
		if i < 0 {
			return false
		}
		p.a, p.b, p.c = p.nodes[i], p.nodes[(i+1)%nodes], p.nodes[(i+2)%nodes]
		return true
	})
	if p.err != nil {
		p.err = fmt.Errorf("%w: %w", ErrNotHeld, p.err)
		return
	}
	p.called = map[*node]string{p.a: "A", p.b: "B", p.c: "C"}
	p.mayStand(p.a)
	p.do("Three brokers keep a partition. A leads: it takes what producers send and passes it on to its followers B and C. "+
		"Something is stored already, and acked: committed, that is on the disks of a majority.",
		p.connect, p.until("the replicas are the same", p.same),
		func() error {
			now := p.status(p.a)
			p.before, p.term = now.HighWatermark, now.Term
			return nil
		})
}

// connect makes the producer, and returns when what it sends to A goes there
// directly.
func (p *play) connect() (err error) {
	at, wire := p.b, pairOf(p.first(), p.a.id)
	if p.client, err = p.newSender(p.ctx, p.first(), at, &p.log); err != nil {
		return err
	}
	// While it dials A it has others pass its batches on.
	for n := 1; ; n++ {
		name := fmt.Sprint("before-", n)
		if err := p.await(p.ctx, "a record is acked", p.ackedAll(p.client, p.client.send(p.ctx, name))); err != nil {
			return err
		}
		if p.wires.passedTo(wire, name+" ") {
			return nil
		}
		if err := p.await(p.ctx, "the producer is connected to A", func() bool { return p.wires.connected(wire) }); err != nil {
			return err
		}
	}
}

// mayStand lets only these stand for election in the partition; nobody: all.
func (p *play) mayStand(who ...*node) {
	p.rules.set(func(r *rules) {
		r.candidates = nil
		if len(who) > 0 {
			r.candidates = map[string]bool{}
		}
		for _, n := range who {
			r.candidates[n.info.RaftAddr] = true
		}
	})
}

// lose loses messages of the partition from now on; nil: none.
func (p *play) lose(match func(chantransport.Message) bool) func() error {
	return func() error {
		p.rules.set(func(r *rules) { r.lose = match })
		return nil
	}
}

// entriesTo matches what A replicates to some followers.
func (p *play) entriesTo(who ...*node) func(chantransport.Message) bool {
	to := map[string]bool{}
	for _, n := range who {
		to[n.info.RaftAddr] = true
	}
	return func(m chantransport.Message) bool {
		return m.Type == "Replicate" && m.FromAddress == p.a.info.RaftAddr && to[m.ToAddress] && len(m.Entries) > 0
	}
}

// confirmationsToA matches by what A learns that a follower has something.
func (p *play) confirmationsToA(m chantransport.Message) bool {
	return m.Type == "ReplicateResp" && m.ToAddress == p.a.info.RaftAddr
}

// commitsFromA matches by what followers learn that A has committed more than
// what was stored before.
func (p *play) commitsFromA() func(chantransport.Message) bool {
	known := p.status(p.a).Commit
	return func(m chantransport.Message) bool { return m.FromAddress == p.a.info.RaftAddr && m.Commit > known }
}

// loseRequests and loseAnswers lose what the producer says to A, and what A says
// to it.
func (p *play) loseRequests() error { return p.loseOnTheWire(toNode) }

func (p *play) loseAnswers() error { return p.loseOnTheWire(toClient) }

func (p *play) loseOnTheWire(d direction) error {
	p.wires.set(func() { p.wires.lost[pairOf(p.first(), p.a.id)] = d })
	return nil
}

// send sends the batches, all at once.
func (p *play) send() error {
	var names []string
	for i := range p.settings.Batches {
		names = append(names, fmt.Sprint("order-", i+1))
	}
	p.batches = p.client.send(p.ctx, names...)
	return nil
}

// lostOnTheWay: the producer has sent everything, and it came nowhere.
func (p *play) lostOnTheWay() bool {
	return p.all(func(r *record) bool { return p.wires.lostBytes(pairOf(p.first(), p.a.id), r.name+" ") })
}

// inLogOf: the batches are in the log of n, on its disk.
func (p *play) inLogOf(n *node) func() bool {
	return func() bool {
		names, err := p.namesIn(n)
		return err == nil && p.all(func(r *record) bool { return names[r.name] > 0 })
	}
}

// notInLogOf: none of the batches is in the log of n.
func (p *play) notInLogOf(n *node) func() bool {
	return func() bool {
		names, err := p.namesIn(n)
		return err == nil && p.all(func(r *record) bool { return names[r.name] == 0 })
	}
}

func (p *play) all(ok func(*record) bool) bool {
	return !slices.ContainsFunc(p.batches, func(r *record) bool { return !ok(r) })
}

// appliedOn: the batches are committed and applied on n.
func (p *play) appliedOn(n *node) func() bool {
	return func() bool { return p.status(n).HighWatermark >= p.before+int64(len(p.batches)) }
}

// notAppliedOn: n knows of none of the batches that it is committed.
func (p *play) notAppliedOn(n *node) func() bool {
	return func() bool { return p.status(n).HighWatermark == p.before }
}

// nothingAcked: the producer has no answer.
func (p *play) nothingAcked() bool {
	return p.all(func(r *record) bool { _, acked := p.client.receiptOf(r); return !acked })
}

func (p *play) ackedAll(s *sender, records []*record) func() bool {
	return func() bool {
		return !slices.ContainsFunc(records, func(r *record) bool { _, ok := s.receiptOf(r); return !ok })
	}
}

// fail makes the leader fail, in the way that the settings say. From then on the
// others may stand for election.
func (p *play) fail() {
	p.failing = p.failing || p.err == nil
	if p.settings.Fault == Crash {
		p.do("A crashes. What it had not synced to its disk is gone.", func() error { return p.crash(p.a) })
	} else {
		p.do("A stops: its process stands still, and what is sent to it waits.", func() error {
			p.stop(p.a)
			return nil
		})
	}
}

// elect lets the followers stand for election and returns when one of them leads.
func (p *play) elect() error {
	p.failing = true
	p.mayStand(p.b, p.c)
	if err := p.await(p.ctx, "B or C leads", func() bool { return p.leader() != nil }); err != nil {
		return err
	}
	p.enough = p.beats() + 10*electionTicks/beatTicks
	return nil
}

// leader returns the one other than A that serves.
func (p *play) leader() *node {
	for _, n := range []*node{p.b, p.c} {
		if p.status(n).Serving {
			return n
		}
	}
	return nil
}

// leaderNow is leader where there is one, else B: for conditions that are looked
// at again and again.
func (p *play) leaderNow() *node {
	if n := p.leader(); n != nil {
		return n
	}
	return p.b
}

// hasRefused: voter did not vote for candidate.
func (p *play) hasRefused(voter, candidate *node) (refused bool) {
	p.rules.set(func(r *rules) { refused = r.refused[[2]string{voter.info.RaftAddr, candidate.info.RaftAddr}] })
	return refused
}

// mend ends the loss between producer and node. Connections that lost something
// are of no use any more.
func (p *play) mend() {
	var torn map[pair]direction
	p.wires.set(func() {
		torn = maps.Clone(p.wires.lost)
		clear(p.wires.lost)
	})
	p.wires.closeAll(func(q pair) bool { return torn[q] != neither })
}

// same: the three replicas have the same log, all committed and applied.
func (p *play) same() bool {
	first := p.status(p.a)
	for _, n := range p.cast() {
		s := p.status(n)
		if s.Last == 0 || s.Last != first.Last || s.Applied != first.Applied || s.Applied != s.Last || s.HighWatermark != first.HighWatermark {
			return false
		}
	}
	return true
}

// connected reports whether a connection between p's ends stands.
func (w *wires) connected(p pair) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		if c.pair == p {
			return true
		}
	}
	return false
}
