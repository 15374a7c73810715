package producer

import (
	"math"
)

// entry is a numbered batch.
type entry struct {
	b *batch
	// uid names the entry in events. It is never reused within a partition.
	uid uint64
	// serial is the newest attempt's number, 0 before the first.
	serial uint64
	// silences is how many attempts got no answer in time. The next one is given
	// longer; after a refusal or a broken connection there is no reason to.
	silences int
	// flying: the newest attempt has not ended.
	flying bool
	// alone: the newest attempt was sent with nothing unresolved before it, so
	// a missing forerunner cannot be why it was refused.
	alone bool
	// ambiguous: some attempt may have stored the batch. Never taken back.
	ambiguous bool
	// last is what ended the newest attempt, if !flying.
	last outcome
	done bool
}

// open reports whether it is unknown if the batch is stored.
func (e *entry) open() bool { return !e.done && (e.ambiguous || e.flying) }

// window is the ordered list of a partition's numbered batches and the rules of
// doc.go about them. It is pure: no clock, no I/O, no lock.
//
// Invariants: entries hold consecutive sequences that end at next-1;
// len(entries) ≤ limit; entries[0], if any, is not done (see pop).
type window struct {
	id    int64
	epoch int16
	next  int32
	limit int

	entries []entry
	uids    uint64

	// round: some attempt failed, and nothing is sent until all have ended.
	round bool
	// draining: a batch left with unknown outcome; nothing is numbered until
	// entries is empty. Implies bump.
	draining bool
	// bump: the epoch must rise before the next number is given.
	bump bool
	// renew: the epoch cannot be used on, a new producer id is needed. Implies bump.
	renew bool
}

// canNumber reports whether the next batch may be given a number right now.
func (w *window) canNumber() bool {
	return !w.round && !w.bump && len(w.entries) < w.limit
}

// mustRenew reports whether the identity is to be changed now.
func (w *window) mustRenew() bool { return w.bump && len(w.entries) == 0 }

// needsID reports whether mustRenew takes a new producer id from the cluster.
func (w *window) needsID() bool { return w.renew || w.epoch == math.MaxInt16 }

// rise begins the next epoch. entries must be empty.
func (w *window) rise() { w.identify(w.id, w.epoch+1) }

// identify takes a new identity. entries must be empty.
func (w *window) identify(id int64, epoch int16) {
	w.id, w.epoch, w.next = id, epoch, 0
	w.round, w.draining, w.bump, w.renew = false, false, false, false
}

// number gives b the next sequence and returns its entry.
func (w *window) number(b *batch) *entry {
	b.number(w.id, w.epoch, w.next)
	// The sequence space is 2^31; 0 follows 2^31-1.
	w.next = int32((int64(w.next) + int64(len(b.records))) & math.MaxInt32)
	w.uids++
	w.entries = append(w.entries, entry{b: b, uid: w.uids})
	return &w.entries[len(w.entries)-1]
}

func (w *window) find(uid uint64) *entry {
	for i := range w.entries {
		if w.entries[i].uid == uid {
			return &w.entries[i]
		}
	}
	return nil
}

// settled reports whether no attempt is under way.
func (w *window) settled() bool {
	for i := range w.entries {
		if w.entries[i].flying {
			return false
		}
	}
	return true
}

// report takes in the end of an attempt. It returns false when that is no news:
// the batch is resolved, or a later attempt is under way.
func (w *window) report(uid, serial uint64, o outcome) bool {
	e := w.find(uid)
	if e == nil || e.done {
		return false
	}
	if o.kind == kindStored {
		e.done, e.flying, e.last = true, false, o
		return true
	}
	if serial != e.serial || !e.flying {
		return false
	}
	e.flying, e.last = false, o
	if o.silent {
		e.silences++
	}
	e.ambiguous = e.ambiguous || o.ambiguous
	w.round = true
	return true
}

// pop takes the first entry off if it is stored.
func (w *window) pop() (entry, bool) {
	if len(w.entries) == 0 || !w.entries[0].done {
		return entry{}, false
	}
	return w.shift(), true
}

func (w *window) shift() entry {
	e := w.entries[0]
	n := copy(w.entries, w.entries[1:])
	w.entries[n] = entry{}
	w.entries = w.entries[:n]
	if n == 0 {
		w.round = false
	}
	return e
}

// verdict says what becomes of the first entry when a round has settled.
type verdict int

const (
	verdictResend  verdict = iota // send everything again
	verdictRequeue                // nothing is stored: number everything anew
	verdictFail                   // entries[0] fails, the rest is numbered anew
)

// settle judges a settled round; entries must not be empty. gone says that the
// topic does not exist any more.
func (w *window) settle(gone bool) verdict {
	e := &w.entries[0]
	switch {
	case gone && topicGone(e.last.err):
		return verdictFail // rule 9: nobody will ever tell
	case e.ambiguous:
		return verdictResend // rule 8: until the delivery time-out
	case e.last.kind == kindFatal:
		return verdictFail
	case e.last.kind == kindIdentity && e.alone:
		w.renew = true
		return verdictRequeue
	case e.last.kind == kindGap && e.alone:
		// All before it are resolved. While draining the forerunner is one
		// whose outcome stayed unknown, so the epoch has to rise anyway;
		// otherwise the broker has lost track. Either way nothing is stored.
		return verdictRequeue
	}
	if w.draining {
		return verdictRequeue
	}
	return verdictResend
}

// cut takes entries[from:] off; they are certainly not stored (rule 6). The
// epoch rises before their next numbers.
func (w *window) cut(from int) []*batch {
	out := make([]*batch, 0, len(w.entries)-from)
	for i := from; i < len(w.entries); i++ {
		w.entries[i].b.cancel()
		out = append(out, w.entries[i].b)
		w.entries[i] = entry{}
	}
	w.entries = w.entries[:from]
	w.bump = true
	if from == 0 {
		w.round = false
	}
	return out
}

// firstDefinite returns the first entry that is certainly not stored, or
// len(entries). Nothing behind it is stored either.
func (w *window) firstDefinite() int {
	for i := range w.entries {
		if e := &w.entries[i]; !e.done && !e.open() {
			return i
		}
	}
	return len(w.entries)
}

// expire takes the first entry off at its delivery time-out. unknown says that
// it may be stored; if not, requeue holds what was behind it.
func (w *window) expire() (e entry, unknown bool, requeue []*batch) {
	unknown = w.entries[0].open()
	e = w.shift()
	w.bump = true
	if !unknown {
		return e, false, w.cut(0)
	}
	w.draining = true
	w.round = len(w.entries) > 0
	return e, true, nil
}

// drop takes the first entry off after verdictFail and returns what was behind.
func (w *window) drop() (entry, []*batch) {
	e := w.shift()
	return e, w.cut(0)
}
