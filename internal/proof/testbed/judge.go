package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"logbroker/internal/history"
)

// Tally is what became of what was sent.
type Tally struct {
	Acked      int `json:"acked"`
	Unknown    int `json:"unknown"`
	Failed     int `json:"failed"` // certainly not stored
	Lost       int `json:"lost"`
	Duplicated int `json:"duplicated"`
	Reordered  int `json:"reordered"`
	Diverged   int `json:"diverged"`
	// Misread are verdicts on what readers were given and told.
	Misread int `json:"misread"`
	Other   int `json:"other"` // verdicts that none of the words above fits
	Reads   int `json:"reads"` // records that readers were given
	// P99 is the ack latency that 99 of 100 acked records stayed below.
	P99 time.Duration `json:"p99"`
}

// Clean reports whether nothing was found.
func (t *Tally) Clean() bool {
	return t.Lost == 0 && t.Duplicated == 0 && t.Reordered == 0 && t.Diverged == 0 && t.Misread == 0 && t.Other == 0
}

// Add adds another run's figures; of the latencies the worse one stays.
func (t *Tally) Add(o Tally) {
	t.Acked, t.Unknown, t.Failed = t.Acked+o.Acked, t.Unknown+o.Unknown, t.Failed+o.Failed
	t.Lost, t.Duplicated, t.Reordered = t.Lost+o.Lost, t.Duplicated+o.Duplicated, t.Reordered+o.Reordered
	t.Diverged, t.Other, t.P99 = t.Diverged+o.Diverged, t.Other+o.Other, max(t.P99, o.P99)
	t.Misread, t.Reads = t.Misread+o.Misread, t.Reads+o.Reads
}

// String returns the figures as the final lines have them.
func (t *Tally) String() string {
	text := fmt.Sprintf("acked=%d unknown=%d lost=%d duplicated=%d reordered=%d diverged=%d", t.Acked, t.Unknown, t.Lost, t.Duplicated, t.Reordered, t.Diverged)
	if t.Other > 0 {
		text += fmt.Sprintf(" other=%d", t.Other)
	}
	return text
}

// Judge heals the cluster, waits for the last verdicts and until all replicas
// are equal, stops the nodes, reads the log of every replica from its disk, and
// judges the whole. What it finds goes to out. Errors: the cluster did not come
// back, or a replica cannot be read.
func Judge(ctx context.Context, c *Cluster, l *Load, out io.Writer) (Tally, error) {
	var tally Tally
	if err := c.Heal(ctx); err != nil {
		return tally, fmt.Errorf("after healing: %w", err)
	}
	if err := l.Finish(); err != nil {
		return tally, fmt.Errorf("the last verdicts did not come: %w", err)
	}
	settling, cancel := context.WithTimeout(ctx, ReadyMax)
	defer cancel()
	if err := c.AwaitHealthy(settling); err != nil {
		return tally, err
	}
	shards, err := c.AwaitCaughtUp(settling, l.options.Topic, l.options.Partitions)
	if err != nil {
		return tally, err
	}
	var reading error // told beside what is judged: acked records may be why
	if l.readers != nil {
		draining, cancel := context.WithTimeout(ctx, ReadyMax)
		defer cancel()
		reading = l.readers.finish(draining)
	}
	if err := c.Stop(); err != nil {
		return tally, errors.Join(reading, err)
	}
	stored, err := drain(c, shards)
	if err != nil {
		return tally, errors.Join(reading, err)
	}
	report := l.Report(stored)
	for _, f := range report.Faults {
		fmt.Fprintln(out, f)
	}
	tally = count(report)
	tally.Failed = l.failed()
	tally.P99 = l.latency(0.99)
	return tally, reading
}

// Report judges what was sent, and read, against what is stored, partition by
// partition: together they would need six times the memory. The load must have
// finished.
func (l *Load) Report(stored []history.Event) *history.Report {
	all := &history.Report{Count: map[history.Verdict]int{}}
	for p := range l.options.Partitions {
		here := make([]history.Event, 0, len(stored)/int(l.options.Partitions))
		for i := range stored {
			if stored[i].Partition == p {
				here = append(here, stored[i])
			}
		}
		sum(all, history.Check(slices.Concat(l.events(p, here), here, l.readers.events(p)), history.Options{}))
	}
	return all
}

// sum adds a partition's report.
func sum(all, r *history.Report) {
	all.Faults = append(all.Faults, r.Faults...)
	for verdict, n := range r.Count {
		all.Count[verdict] += n
	}
	all.Acked, all.Unknown, all.Reads = all.Acked+r.Acked, all.Unknown+r.Unknown, all.Reads+r.Reads
}

func count(r *history.Report) Tally {
	t := Tally{Acked: r.Acked, Unknown: r.Unknown, Reads: r.Reads}
	for verdict, n := range r.Count {
		switch verdict {
		case history.LostPrefix, history.LostMiddle, history.LostPostfix, history.WrongOffset, history.TwoValues:
			t.Lost += n
		case history.Duplicate:
			t.Duplicated += n
		case history.ProducerOrder, history.RealTime:
			t.Reordered += n
		case history.Diverged:
			t.Diverged += n
		case history.StaleLatest, history.WatermarkBack, history.AboveCommit, history.Skipped:
			t.Misread += n
		default:
			t.Other += n
		}
	}
	return t
}

// drain reads every replica. Where all replicas of a partition hold the same
// bytes one of them stands for all.
func drain(c *Cluster, shards []uint64) ([]history.Event, error) {
	var events []history.Event
	var errs []error
	for p, shard := range shards {
		var replicas []*replicaLog
		for _, n := range c.Nodes {
			r, err := openReplica(n, shard)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			replicas = append(replicas, r)
		}
		if len(replicas) > 0 && identical(replicas) {
			replicas = replicas[:1]
		}
		for _, r := range replicas {
			errs = append(errs, r.each(func(offset int64, value []byte) {
				events = append(events, history.Event{Kind: history.Stored, Replica: uint64(r.node), Partition: int32(p), Offset: offset, Message: messageIn(value)})
			}))
		}
	}
	return events, errors.Join(errs...)
}

// events returns what the producers saw of a partition. A record that the broker
// knows to be a duplicate, but no longer of what, is acked where it is stored.
func (l *Load) events(partition int32, stored []history.Event) []history.Event {
	forgotten := l.forgotten(stored)
	var events []history.Event
	for _, a := range l.lanes {
		if a.partition != partition {
			continue
		}
		for i := range a.sent {
			s, id := &a.sent[i], a.id<<laneShift|uint64(i+1)
			events = append(events, history.Event{Kind: history.Invoke, At: s.invoked, Message: id, Producer: a.id, Sequence: int64(i)})
			if s.verdict == 0 {
				continue
			}
			e := history.Event{Kind: s.verdict, At: s.answered, Message: id, Partition: a.partition, Offset: s.offset}
			if at, ok := forgotten[id]; ok {
				e.Offset = at
			}
			events = append(events, e)
		}
	}
	return events
}

// forgotten returns where acked records lie whose place the broker did not say.
func (l *Load) forgotten(stored []history.Event) map[uint64]int64 {
	places := map[uint64]int64{}
	for _, a := range l.lanes {
		for i := range a.sent {
			if s := &a.sent[i]; s.verdict == history.OK && s.offset < 0 {
				places[a.id<<laneShift|uint64(i+1)] = -1
			}
		}
	}
	if len(places) == 0 {
		return nil
	}
	for i := range stored {
		if _, ok := places[stored[i].Message]; ok {
			places[stored[i].Message] = stored[i].Offset
		}
	}
	return places
}

func (l *Load) failed() int {
	n := 0
	for _, a := range l.lanes {
		for i := range a.sent {
			if a.sent[i].verdict == history.Fail {
				n++
			}
		}
	}
	return n
}

// latency is a quantile of the acked records' times from send to ack.
func (l *Load) latency(quantile float64) time.Duration {
	var all []int64
	for _, a := range l.lanes {
		for i := range a.sent {
			if s := &a.sent[i]; s.verdict == history.OK {
				all = append(all, s.answered-s.invoked)
			}
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return time.Duration(all[int(float64(len(all)-1)*quantile)])
}

// Skipped is what the powers lack, one line each.
func (p *Powers) Skipped() string { return strings.Join(p.Missing, "\n") }
