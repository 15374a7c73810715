package consumer

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// ledger checks what all members of a group are handed: in order within an
// ownership, one owner at a time as far as the members know, and every record.
type ledger struct {
	t     testing.TB
	mu    sync.Mutex
	owner map[TopicPartition]*Consumer
	seen  map[TopicPartition]map[int64]bool
}

func (l *ledger) callbacks() []Option {
	return []Option{
		WithOnAssigned(func(_ context.Context, c *Consumer, partitions []TopicPartition) {
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, p := range partitions {
				if l.owner[p] != nil {
					l.t.Errorf("%s is assigned to a second member", p)
				}
				l.owner[p] = c
			}
		}),
		WithOnRevoked(l.drop), WithOnLost(l.drop),
	}
}

func (l *ledger) drop(_ context.Context, c *Consumer, partitions []TopicPartition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range partitions {
		if l.owner[p] == c {
			delete(l.owner, p)
		}
	}
}

// forget drops a member that is gone without a word.
func (l *ledger) forget(c *Consumer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, owner := range l.owner {
		if owner == c {
			delete(l.owner, p)
		}
	}
}

func (l *ledger) note(r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := TopicPartition{r.Topic, r.Partition}
	if l.seen[p] == nil {
		l.seen[p] = map[int64]bool{}
	}
	if r.Offset > 0 && !l.seen[p][r.Offset-1] {
		l.t.Errorf("%s: %d comes before %d was seen by anybody", p, r.Offset, r.Offset-1)
	}
	l.seen[p][r.Offset] = true
}

// Members join, leave, crash and are thrown out, the coordinator moves, while
// records come: none is skipped, and in the end all is committed.
func TestDisorderInAGroupSkipsNothing(t *testing.T) {
	t.Parallel()
	const partitions, steps = 6, 60
	b := shared(t, 2, partitions, 0)
	l := &ledger{t: t, owner: map[TopicPartition]*Consumer{}, seen: map[TopicPartition]map[int64]bool{}}
	rng := rand.New(rand.NewPCG(7, 7))
	var all sync.WaitGroup
	var members []*Consumer
	join := func() {
		c := member(t, b, l.callbacks()...)
		members = append(members, c)
		all.Go(func() {
			for {
				recs, err := c.Poll(context.Background(), 5)
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					return
				}
				for _, r := range recs {
					l.note(r)
				}
				c.Mark(recs...)
			}
		})
	}
	take := func() *Consumer {
		i := rng.IntN(len(members))
		c := members[i]
		members = append(members[:i], members[i+1:]...)
		return c
	}
	join()
	for step := range steps {
		for p := range partitions {
			addTo(b, p, 10*step, 10)
		}
		switch x := rng.IntN(10); {
		case x < 4 && len(members) < 5:
			join()
		case x < 6 && len(members) > 1:
			if err := take().Drain(within(t)); err != nil {
				t.Error(err)
			}
		case x < 7 && len(members) > 1: // a crash, as far as the others can tell
			c := take()
			l.forget(c)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		case x < 8:
			c := members[rng.IntN(len(members))]
			l.forget(c)
			b.EndSession("g", c.MemberID())
		case x < 9:
			b.MoveCoordinator(uint64(rng.IntN(2) + 1))
		default:
			b.UnlingerCoordinator()
		}
		wait := time.NewTimer(time.Duration(rng.IntN(20)) * time.Millisecond)
		<-wait.C
	}
	awaitCommitted(t, b, partitions, 10*steps)
	for _, c := range members {
		if err := c.Drain(within(t)); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	for p, offsets := range l.seen {
		if len(offsets) != 10*steps {
			t.Errorf("%s: %d records seen, want %d", p, len(offsets), 10*steps)
		}
	}
}
