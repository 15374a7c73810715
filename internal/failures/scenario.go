package failures

import (
	"context"
	"errors"
	"fmt"
)

// Scenario is one of the seven ways in which a leader can fail.
type Scenario struct {
	Number int
	// Title says when it fails, Lesson what is to be seen.
	Title, Lesson string
	// story is in scenario<Number>.go.
	story func(*play)
	// recognised: the batches are stored before the leader fails, so that each
	// retry must be recognised.
	recognised bool
}

// Scenarios returns the seven, in order.
func Scenarios() []Scenario {
	return []Scenario{
		{
			Number: 1, Title: "The leader fails before the batch reaches it",
			Lesson: "Nothing was stored anywhere. The producer sends the batch to the new leader, and it is stored once.",
			story:  beforeTheBatchArrives,
		},
		{
			Number: 2, Title: "The leader fails when the batch is in its own log only",
			Lesson: "One copy is not a majority, so nobody was told that it is stored. The new leader does not have it; the retry stores it once, and the old leader's copy is overwritten.",
			story:  inTheLeadersLogOnly,
		},
		{
			Number: 3, Title: "The leader fails when every follower has the batch, before it could commit it",
			Lesson: "The new leader has the batch and commits it. The producer does not know and sends it again: its number shows that it is stored, so it is answered with the first copy's offset.",
			story:  inEveryFollowersLog, recognised: true,
		},
		{
			Number: 4, Title: "The leader fails when one follower has the batch and the other has not",
			Lesson: "A replica votes only for one whose log is at least as complete as its own. So the one with the batch wins, the batch is kept, and the retry is recognised.",
			story:  inOneFollowersLog, recognised: true,
		},
		{
			Number: 5, Title: "The leader fails when it has committed the batch and the followers do not know that",
			Lesson: "Committed means on the disks of a majority, not that all know of it: the new leader has the batch and commits it itself. The retry is recognised.",
			story:  committedInSecret, recognised: true,
		},
		{
			Number: 6, Title: "The leader fails when the batch is committed and applied everywhere, before it could answer",
			Lesson: "Only the answer is missing. The retry is recognised and answered with the same offset.",
			story:  beforeTheAnswer, recognised: true,
		},
		{
			Number: 7, Title: "The leader is cut off from the majority, and lives on",
			Lesson: "There are two leaders for a while, the old one in an older term. It reaches no majority, so it can commit nothing and acks nothing. When the cut heals it follows the new leader and drops what was never committed.",
			story:  cutOff,
		},
	}
}

// ErrNotHeld says that the cluster could not be brought to the stage at which the leader is
// to fail, because the machine was too slow: another election came before. Nothing
// was tried, so it says nothing; play it again.
var ErrNotHeld = errors.New("the stage could not be held, the machine is too busy; play it again")

// Cluster is three brokers in this process on which scenarios are played, one
// after the other. Its methods are for one goroutine.
type Cluster struct{ stage *stage }

// Open starts a cluster. Close ends it.
func Open(ctx context.Context, o Options) (*Cluster, error) {
	s, err := newStage(ctx, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting three brokers: %w", err), s.close())
	}
	return &Cluster{s}, nil
}

// Close ends the cluster.
func (c *Cluster) Close() error { return c.stage.close() }

// Play plays a scenario on a topic of its own and returns what came of it. An
// error says that it could not be played, which says nothing about what became of
// the records; the cluster is of no use any more then.
func (c *Cluster) Play(ctx context.Context, s Scenario, settings Settings) (Outcome, error) {
	settings.Batches = max(settings.Batches, 1)
	p := &play{stage: c.stage, ctx: ctx, settings: settings, number: s.Number}
	defer p.end()
	if err := c.stage.set(ctx); err != nil {
		return Outcome{}, fmt.Errorf("creating the topic: %w: %w", ErrNotHeld, err)
	}
	s.story(p)
	if p.err != nil {
		return Outcome{}, fmt.Errorf("scenario %d: %w", s.Number, p.err)
	}
	o, err := p.judge()
	if err != nil {
		return o, err
	}
	return o, s.proves(o, c.stage.options)
}

// proves demands that the play went the way the story says: otherwise a good
// outcome proves nothing.
func (s Scenario) proves(o Outcome, options Options) error {
	switch {
	case options.NoDeduplication:
		return nil
	case s.recognised && o.Retries < len(o.Offsets):
		return fmt.Errorf("scenario %d: only %d of %d retries were recognised as such", s.Number, o.Retries, len(o.Offsets))
	}
	return nil
}

// end ends the producers.
func (p *play) end() {
	gone, cancel := context.WithCancel(context.Background())
	cancel() // nothing is worth waiting for
	for _, s := range []*sender{p.client, p.other} {
		if s != nil {
			_ = s.p.Close(gone) // what is still on its way does not matter: the play is over
		}
	}
}
