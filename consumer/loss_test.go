package consumer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"logbroker/internal/client/clienttest"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// wantLossOnce checks that a Commit tells of a loss and the next one does not.
func wantLossOnce(t *testing.T, c *Consumer, code errcode.Code) {
	t.Helper()
	if err := c.Commit(within(t)); errcode.Of(err) != code || err == nil {
		t.Fatalf("the commit after the loss: %v, want %v", err, code)
	}
	if err := c.Commit(within(t)); err != nil {
		t.Fatalf("the loss is told again: %v", err)
	}
}

// loser is a member that holds ten unmarked records and hears when it loses.
type loser struct {
	*Consumer
	b       *clienttest.Broker
	records []Record
	lost    chan struct{}
}

func newLoser(t *testing.T, opts ...Option) *loser {
	t.Helper()
	l := &loser{b: shared(t, 1, 1, 20), lost: make(chan struct{}, 10)}
	opts = append([]Option{WithAutoCommit(0), WithOnLost(func(context.Context, *Consumer, []TopicPartition) { signal(l.lost) })}, opts...)
	l.Consumer = member(t, l.b, opts...)
	l.records = l.poll(t, 10)
	return l
}

func (l *loser) poll(t *testing.T, n int) (out []Record) {
	t.Helper()
	for len(out) < n {
		records, err := l.Poll(within(t), n-len(out))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, records...)
	}
	return out
}

// lose has the coordinator end the session, and returns when the member knows.
func (l *loser) lose() {
	l.b.EndSession("g", l.MemberID())
	<-l.lost
}

func TestACommitTellsOnceOfMarksThatALossDropped(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(t *testing.T, l *loser) (want errcode.Code){
		"marked before": func(_ *testing.T, l *loser) errcode.Code {
			l.Mark(l.records...)
			l.lose()
			return errcode.UnknownMemberID
		},
		"marked after": func(_ *testing.T, l *loser) errcode.Code {
			l.lose()
			l.Mark(l.records[3])
			return errcode.UnknownMemberID
		},
		"marked before and after, lost twice": func(t *testing.T, l *loser) errcode.Code {
			l.Mark(l.records[0])
			l.lose()
			l.Mark(l.records[1])
			l.Mark(l.poll(t, 1)...)
			l.lose()
			l.Mark(l.records[2])
			return errcode.UnknownMemberID
		},
		"the coordinator was not heard of": func(_ *testing.T, l *loser) errcode.Code {
			l.Mark(l.records...)
			l.b.MoveCoordinator(0)
			l.validUntil.Store(1) // as after a long stop of the process
			<-l.lost
			l.b.MoveCoordinator(1)
			return errcode.UnknownMemberID
		},
		"nothing marked": func(_ *testing.T, l *loser) errcode.Code {
			l.lose()
			return errcode.None
		},
		"all committed": func(t *testing.T, l *loser) errcode.Code {
			l.Mark(l.records...)
			if err := l.Commit(within(t)); err != nil {
				t.Error(err)
			}
			l.lose()
			l.Mark(l.records...) // again: they are committed
			return errcode.None
		},
		"told while it was under way": func(t *testing.T, l *loser) errcode.Code {
			// The commit is refused for its epoch; meanwhile the member finds out that
			// it is none any more, joins again, and has nothing left to commit.
			var once sync.Once
			l.b.OnGroup(func(call clienttest.GroupCall) (f clienttest.Fault) {
				if call.Verb == protocol.VerbGroupCommit {
					once.Do(func() {
						l.b.EndSession("g", l.MemberID())
						f.Refuse = errcode.StaleMemberEpoch
					})
				}
				return f
			})
			l.Mark(l.records...)
			return errcode.UnknownMemberID
		},
		"a seek drops marks without a loss": func(t *testing.T, l *loser) errcode.Code {
			l.Mark(l.records...)
			if err := l.Seek(TopicPartition{"orders", 0}, 2); err != nil {
				t.Error(err)
			}
			l.Mark(l.records...)
			return errcode.None
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLoser(t)
			if want := test(t, l); want != errcode.None {
				wantLossOnce(t, l.Consumer, want)
				l.Mark(l.records...)
			}
			if err := l.Commit(within(t)); err != nil {
				t.Fatal(err)
			}
			// It goes on as if nothing had been.
			l.Mark(l.poll(t, 1)...)
			if err := l.Commit(within(t)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestARefusedCommitTellsOfTheLossThatTheMembershipFindsLater(t *testing.T) {
	l := newLoser(t)
	l.b.SetHeartbeatInterval(60_000)
	clienttest.Await(t, "the long heartbeat", func() bool { return l.heartbeatInterval() == time.Minute })
	l.Mark(l.records[:5]...)
	l.b.EndSession("g", l.MemberID())
	wantLossOnce(t, l.Consumer, errcode.UnknownMemberID)
	<-l.lost
	l.Mark(l.records...) // told already
	if err := l.Commit(within(t)); err != nil {
		t.Fatal(err)
	}
}

func TestAutomaticCommitsDoNotHideALoss(t *testing.T) {
	l := newLoser(t, WithAutoCommit(20*time.Millisecond))
	l.lose()
	l.Mark(l.records...)
	l.Mark(l.poll(t, 20)...)
	awaitCommitted(t, l.b, 1, 20)
	wantLossOnce(t, l.Consumer, errcode.UnknownMemberID)
}

func TestDrainTellsOfALossWhereOnlyTheApplicationCommits(t *testing.T) {
	for _, auto := range []time.Duration{0, time.Hour} {
		l := newLoser(t, WithAutoCommit(auto))
		l.lose()
		l.Mark(l.records...)
		if err := l.Drain(within(t)); (errcode.Of(err) == errcode.UnknownMemberID) != (auto == 0) {
			t.Errorf("automatic commits every %v: %v", auto, err)
		}
		if err := l.Commit(within(t)); !errors.Is(err, ErrClosed) {
			t.Errorf("a commit after Drain: %v", err)
		}
	}
}
