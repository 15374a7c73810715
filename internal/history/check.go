package history

import (
	"fmt"
	"strings"
)

// Verdict is one way in which a history can be wrong.
type Verdict string

// The verdicts. The first ones are about what was sent and the final log, then
// come those about what readers saw, and those about groups; the package comment
// defines the latter two.
const (
	// LostPrefix, LostMiddle and LostPostfix: acked, and not in the log. Its place is
	// before, between or after what is there.
	LostPrefix  Verdict = "lost prefix"
	LostMiddle  Verdict = "lost middle"
	LostPostfix Verdict = "lost postfix"
	// WrongOffset: acked at one offset, stored at another one.
	WrongOffset Verdict = "wrong offset"
	// TwoValues: at one offset, two messages were acked, or one was delivered and
	// another one is stored.
	TwoValues Verdict = "two values at one offset"
	// Duplicate: stored twice.
	Duplicate Verdict = "duplicate"
	// Phantom: stored, delivered or read, and never sent: made up or corrupted.
	Phantom Verdict = "phantom or corrupted"
	// Hole: an offset within the log that holds nothing, and that no ack names.
	Hole Verdict = "hole"
	// FailedSeen: it definitely failed, and is stored.
	FailedSeen Verdict = "failed write seen"
	// ProducerOrder: two messages of one producer are stored in the wrong order.
	ProducerOrder Verdict = "producer order"
	// RealTime: acked before the other one was sent, yet at a later offset.
	RealTime Verdict = "real-time order"
	// Diverged: two replicas do not hold the same.
	Diverged Verdict = "diverged replica"

	// Stuck: a message was not acked in time though all faults were over
	// (Options.AckMax).
	Stuck Verdict = "stuck"
	// StaleLatest: the high watermark was asked for after a record was acked, and
	// the answer does not cover it.
	StaleLatest Verdict = "stale latest read"
	// WatermarkBack: the high watermark was lower than before.
	WatermarkBack Verdict = "watermark went back"
	// AboveCommit: a reader was given a record at or above the high watermark that
	// came with it, or the high watermark covered what the log does not have.
	AboveCommit Verdict = "read above commit"
	// TwoOwners: a partition had two owners at a time.
	TwoOwners Verdict = "two owners"
	// Gap: a group offset passed a record that nobody had been given.
	Gap Verdict = "gap in committed coverage"
	// OffsetWentBack: a group offset was lower than before.
	OffsetWentBack Verdict = "group offset went back"
	// Redelivered: an ownership began below what was committed before it.
	Redelivered Verdict = "redelivery below the last commit"
	// Skipped: within an ownership, or between two beginnings of a reader, an offset
	// was left out or came again.
	Skipped Verdict = "skipped or repeated poll"
	// Undelivered: a record of the log was given to nobody, though the group had
	// the time (Options.Drained).
	Undelivered Verdict = "never delivered"
	// Malformed: the events contradict each other, and nothing can be concluded.
	Malformed Verdict = "malformed history"
)

// faultsMax bounds the faults of one verdict that are kept; all are counted.
const faultsMax = 10

// Fault is a verdict with the events that prove it.
type Fault struct {
	Verdict Verdict
	Detail  string
	Events  []Event
}

// String returns the verdict, the detail, and a line for each event.
func (f Fault) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", f.Verdict, f.Detail)
	for _, e := range f.Events {
		b.WriteString("\n\t")
		b.WriteString(e.String())
	}
	return b.String()
}

// Options are what Check cannot see in the events.
type Options struct {
	// HandOutMax is how long after another member was told that it owns a
	// partition a member that was not stopped may still be given its records.
	// Nanoseconds; 0: that is not judged.
	HandOutMax int64
	// Drained are the groups that had the time to read all there is.
	Drained []string
	// AckMax is how long after the Healed event, or after it was sent where that is
	// later, a message may wait for its ack. Nanoseconds; 0: that is not judged.
	AckMax int64
	// NoWitness: there is no final log (no Stored events), so that what needs
	// one is not judged.
	NoWitness bool
}

// Report is what became of a history.
type Report struct {
	// Faults has up to ten faults of each verdict, Count how many there are.
	Faults []Fault
	Count  map[Verdict]int
	// Excused are the offsets that nobody is known to have been given, but perhaps
	// a process whose file is torn.
	Excused int
	// Acked, Unknown, Delivered, Committed and Reads count events; a message without an
	// outcome is Unknown.
	Acked, Unknown, Delivered, Committed, Reads int
}

// OK reports whether there is no fault.
func (r *Report) OK() bool { return len(r.Faults) == 0 }

// Lost is how many acked records are not in the log.
func (r *Report) Lost() int { return r.Count[LostPrefix] + r.Count[LostMiddle] + r.Count[LostPostfix] }

// fault notes a fault.
func (r *Report) fault(v Verdict, events []Event, format string, args ...any) {
	r.Count[v]++
	if r.Count[v] <= faultsMax {
		r.Faults = append(r.Faults, Fault{Verdict: v, Detail: fmt.Sprintf(format, args...), Events: events})
	}
}

// Check judges a history. The events of one process must come in the order in
// which it wrote them; files may follow each other in any order (see Load).
func Check(events []Event, o Options) *Report {
	r := &Report{Count: map[Verdict]int{}}
	w := readWrites(r, events)
	if !o.NoWitness {
		w.judge()
	}
	w.judgeWaits(o.AckMax)
	readReaders(w).judge(&o)
	readGroups(r, events, &o).judge(w)
	return r
}
