package handler

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// elapse lets the clock of the test's bubble go on by d.
func elapse(d time.Duration) { <-time.After(d) }

// crowdOf lets so many readers of a topic of 100 batches begin at its start while
// there is something to produce, each of whose replies takes a millisecond, and
// counts what they get. The clock is the test's own.
func crowdOf(t *testing.T, readers int, batch []byte) (b *bench, at func(offset int64) (took time.Duration), replies *atomic.Int64) {
	b = newBench(t, func(o *Options) { o.ReplyBytes, o.GiveWayMax = 1, 20*time.Millisecond })
	b.h.turns.processors = 1
	topic, _ := b.topic("orders")
	for range 100 {
		b.produce(produceRequest(topic, batch))
	}
	b.h.produceBudget.used.Add(1)
	t.Cleanup(func() { b.h.produceBudget.used.Add(-1) })
	replies = new(atomic.Int64)
	for range readers {
		b.h.Fetch(fetchRequest(topic, 0, 1<<20, 0), func(msg []byte) {
			if r, err := protocol.DecodeFetchReply(msg); err != nil || r.Code != errcode.None && r.Code != errcode.ShuttingDown {
				t.Error(r.Code, err)
			} else if len(r.Batches) > 0 {
				replies.Add(1)
				elapse(time.Millisecond)
			}
		})
	}
	at = func(offset int64) time.Duration {
		began := time.Now()
		if got := b.fetch(fetchRequest(topic, offset, 1<<20, 0)); len(got) != 1 || len(got[0].Batches) == 0 || !got[0].Last {
			t.Errorf("the reader at the end got %d replies", len(got))
		}
		return time.Since(began)
	}
	return b, at, replies
}

// TestReadersFromFarBehindShareWhatProducersLeave: however many they are, they take
// a seventh of a processor, and whoever is at the end of the log does not wait for
// them.
func TestReadersFromFarBehindShareWhatProducersLeave(t *testing.T) {
	for _, readers := range []int{1, 30, 1000} {
		t.Run(fmt.Sprint(readers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, end, replies := crowdOf(t, readers, encodeBatch(t, "v"))
				elapse(100 * time.Millisecond) // what each gets at first, by 64 workers
				from := replies.Load()
				elapse(700 * time.Millisecond)
				// Early turns are further apart: what a reply takes had to be learnt.
				if got := replies.Load() - from; got > 110 || got < 50 {
					t.Errorf("%d readers got %d replies in 700 ms, want about 100", readers, got)
				}
				if took := end(99); took > 10*time.Millisecond {
					t.Errorf("the reader at the end waited for %s", took)
				}
			})
		})
	}
}

// TestTurnsComeHoweverLongAReplyTakes: on a machine that is short of time a reply
// takes long whoever reads, and readers must not come to a stop by it.
func TestTurnsComeHoweverLongAReplyTakes(t *testing.T) {
	turns := newTurns(20 * time.Millisecond)
	turns.processors = 1
	for range 100 {
		turns.took(time.Minute)
	}
	for n := range 50 {
		if wait, ok := turns.book(time.Unix(0, 0)); !ok || wait != time.Duration(n)*20*time.Millisecond {
			t.Fatalf("turn %d: in %s, %v", n, wait, ok)
		}
	}
}

// TestAReaderThatDoesNotReadIsNotServedForEver: where there are more readers than
// turns, one that asks no more gets no more; else a crowd of them would hold all
// the turns, and in memory all that they asked for.
func TestAReaderThatDoesNotReadIsNotServedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, replies := crowdOf(t, 1000, encodeBatch(t, "v"))
		elapse(time.Second)
		if got := b.h.fetches.Load(); got > 200 {
			t.Errorf("%d of 1000 readers hold a turn; a second has 143", got)
		}
		if got := replies.Load(); got < 1000 || got > 1200 {
			t.Errorf("1000 readers got %d replies", got)
		}
	})
}

// TestAReaderFromFarBehindWaitsForItsFirstTurn: one that is cut again and again
// and comes back must cost no more than one that stays.
func TestAReaderFromFarBehindWaitsForItsFirstTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		values := make([]string, farBehind)
		_, end, replies := crowdOf(t, 50, encodeBatch(t, values...))
		elapse(70 * time.Millisecond)
		if got := replies.Load(); got > 10 {
			t.Errorf("50 readers got %d replies in 70 ms, want at most 10", got)
		}
		if took := end(100*farBehind - 1); took > 10*time.Millisecond {
			t.Errorf("the reader at the end waited for %s", took)
		}
	})
}
