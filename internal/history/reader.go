package history

import (
	"cmp"
	"slices"
)

// readers is what was seen of partitions by those who belong to no group.
type readers struct {
	*writes
	// last is the latest Read of each beginning.
	last map[beginning]int32
	// reads are all of them.
	reads []int32
	// marks are the Watermark events by partition.
	marks map[int32][]int32
}

// beginning is a stay of a reader with a partition, from one offset on.
type beginning struct {
	member    string
	epoch     int32
	partition int32
}

// readReaders goes through the events once.
func readReaders(w *writes) *readers {
	r := &readers{writes: w, last: map[beginning]int32{}, marks: map[int32][]int32{}}
	for i := range w.events {
		switch e := &w.events[i]; e.Kind {
		case Read:
			r.readOne(int32(i))
		case Watermark:
			r.marks[e.Partition] = append(r.marks[e.Partition], int32(i))
		}
	}
	w.report.Reads = len(r.reads)
	return r
}

// readOne demands that offsets follow each other.
func (r *readers) readOne(i int32) {
	e := &r.events[i]
	r.reads = append(r.reads, i)
	id := beginning{e.Member, e.Epoch, e.Partition}
	if before, ok := r.last[id]; ok && r.events[before].Offset+1 != e.Offset {
		r.report.fault(Skipped, []Event{r.events[before], *e}, "reader %s, partition %d: offset %d came where %d was due", e.Member, e.Partition, e.Offset, r.events[before].Offset+1)
	}
	r.last[id] = i
}

func (r *readers) judge(o *Options) {
	for _, i := range r.reads {
		r.judgeRead(&r.events[i], o)
	}
	for _, partition := range sortedKeys(r.marks) {
		r.judgeBack(r.marks[partition])
		r.judgeLatest(partition)
		if !o.NoWitness {
			r.judgeEnd(partition)
		}
	}
}

// judgeRead holds one record against its high watermark and against the log.
func (r *readers) judgeRead(e *Event, o *Options) {
	if e.Offset >= e.High {
		r.report.fault(AboveCommit, []Event{*e}, "partition %d, offset %d was given out under a high watermark of %d", e.Partition, e.Offset, e.High)
		return
	}
	if o.NoWitness {
		return
	}
	sent := r.find(e.Message)
	switch at := r.storedAt(e.Partition, e.Offset); {
	case sent >= 0 && at < 0 && r.messages[sent].ok >= 0 && r.messages[sent].stored < 0: // lost, as another verdict says
	case sent < 0:
		r.report.fault(Phantom, []Event{*e}, "partition %d, offset %d was read as what was never sent", e.Partition, e.Offset)
	case at < 0:
		r.report.fault(AboveCommit, []Event{*e}, "partition %d, offset %d was read and is not in the log", e.Partition, e.Offset)
	case r.events[at].Message != e.Message:
		r.report.fault(TwoValues, []Event{*e, r.events[at]}, "partition %d, offset %d was read as another message than is stored", e.Partition, e.Offset)
	}
}

// judgeBack looks for a high watermark that was lower than one whose answer came
// before its question was asked.
func (r *readers) judgeBack(marks []int32) {
	answers, questions := r.byAnswer(marks), r.byQuestion(marks)
	highest := int32(-1)
	for _, q := range questions {
		e := &r.events[q]
		for ; len(answers) > 0 && r.events[answers[0]].At < e.Began; answers = answers[1:] {
			if highest < 0 || r.events[answers[0]].High > r.events[highest].High {
				highest = answers[0]
			}
		}
		if highest >= 0 && e.High < r.events[highest].High {
			r.report.fault(WatermarkBack, []Event{r.events[highest], *e}, "partition %d: high watermark %d after %d", e.Partition, e.High, r.events[highest].High)
		}
	}
}

// judgeLatest looks for a high watermark that does not cover what was acked
// before it was asked for.
func (r *readers) judgeLatest(partition int32) {
	var acks []int32
	for i := range r.messages {
		if m := &r.messages[i]; r.keeps(m) && r.events[m.ok].Partition == partition {
			acks = append(acks, m.ok)
		}
	}
	slices.SortStableFunc(acks, r.compareAt)
	furthest := int32(-1)
	for _, q := range r.byQuestion(r.marks[partition]) {
		e := &r.events[q]
		for ; len(acks) > 0 && r.events[acks[0]].At < e.Began; acks = acks[1:] {
			if furthest < 0 || r.events[acks[0]].Offset > r.events[furthest].Offset {
				furthest = acks[0]
			}
		}
		if furthest >= 0 && e.High <= r.events[furthest].Offset {
			r.report.fault(StaleLatest, []Event{r.events[furthest], *e}, "partition %d: offset %d was acked, and the high watermark is %d", partition, r.events[furthest].Offset, e.High)
		}
	}
}

// judgeEnd holds the high watermarks against the end of the log. That acked
// records are missing there is said by another verdict.
func (r *readers) judgeEnd(partition int32) {
	end := int64(0)
	if log := r.logs[partition]; len(log) > 0 {
		end = log[len(log)-1].offset + 1
	}
	for i := range r.messages {
		if m := &r.messages[i]; m.ok >= 0 && m.stored < 0 && r.events[m.ok].Partition == partition {
			end = max(end, r.events[m.ok].Offset+1)
		}
	}
	for _, i := range r.marks[partition] {
		if e := &r.events[i]; e.High > end {
			r.report.fault(AboveCommit, []Event{*e}, "partition %d: all below %d was called committed, and the log ends at %d", partition, e.High, end)
			return // the later ones say the same
		}
	}
}

func (r *readers) compareAt(a, b int32) int { return cmp.Compare(r.events[a].At, r.events[b].At) }

func (r *readers) byAnswer(marks []int32) []int32 {
	out := slices.Clone(marks)
	slices.SortStableFunc(out, r.compareAt)
	return out
}

func (r *readers) byQuestion(marks []int32) []int32 {
	out := slices.Clone(marks)
	slices.SortStableFunc(out, func(a, b int32) int { return cmp.Compare(r.events[a].Began, r.events[b].Began) })
	return out
}
