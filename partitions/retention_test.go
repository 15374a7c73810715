package partitions

import (
	"testing"
	"time"

	"logbroker/internal/errcode"
)

func waitAll(proposed []proposal) {
	for _, w := range proposed {
		_, _ = w.Wait()
	}
}

func TestRetentionTrimsBySizeAndByAppendTime(t *testing.T) {
	trusted := true
	r := newRig(t, func(o *Options) { o.ClockTrusted = func() bool { return trusted } })
	c := r.Config()
	c.SegmentBytes, c.RetentionBytes = 1000, 3000
	r.update(Spec{Config: c})
	r.leadIn(5)
	for i := range 100 {
		if a := appended(r.Partition, batchOf(1, 0, int32(i), 1, 200)); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	waitAll(r.retain())
	bySize := r.Earliest()
	if s := r.Status(); bySize == 0 || s.SizeBytes < 3000 || s.SizeBytes > 5000 {
		t.Fatalf("after retention by size: log start %d, %d bytes", bySize, s.SizeBytes)
	}
	c.RetentionBytes, c.RetentionAge = 0, time.Minute
	r.update(Spec{Config: c})
	waitAll(r.retain())
	if r.Earliest() != bySize {
		t.Fatal("young segments went by age")
	}
	r.clock.advance(time.Hour)
	trusted = false
	waitAll(r.retain())
	if r.Earliest() != bySize {
		t.Fatal("trimmed by a clock that is not trusted")
	}
	trusted = true
	waitAll(r.retain())
	if start := r.Earliest(); start <= bySize || start >= 100 {
		t.Fatalf("log start %d after retention by age", start)
	}
	r.follow(6, 2)
	if got := r.retain(); got != nil {
		t.Fatal("a follower proposes retention")
	}
}

func TestIdleProducersAreForgottenAndBusyOnesAreNot(t *testing.T) {
	r := newRig(t, func(o *Options) { o.ProducerExpiry = time.Hour })
	r.leadIn(5)
	send := func(producer int64, sequence int32) errcode.Code {
		return errcode.Of(appended(r.Partition, numbered(producer, 0, sequence, 1)).Err)
	}
	send(1, 0)
	send(2, 0)
	waitAll(r.retain())
	r.clock.advance(59 * time.Minute)
	send(2, 1)
	waitAll(r.retain())
	if n := len(r.machine.ProducerKeys(nil)); n != 2 {
		t.Fatalf("%d producers before the expiry, want 2", n)
	}
	r.clock.advance(2 * time.Minute)
	waitAll(r.retain())
	if keys := r.machine.ProducerKeys(nil); len(keys) != 1 || keys[0].Producer != 2 {
		t.Fatalf("after the expiry: %+v", keys)
	}
	if c := send(1, 1); c != errcode.UnknownProducerID {
		t.Errorf("the forgotten producer: %v", c)
	}
	if c := send(2, 2); c != errcode.None {
		t.Errorf("the busy producer: %v", c)
	}
}

func TestIdlenessBeginsAnewWithEachLeadership(t *testing.T) {
	var i idleness
	producer := producerState{producer: 1, lastSequence: 4}
	now := time.Unix(1000, 0)
	silence := func(epoch int32) time.Duration {
		i.begin(epoch)
		defer i.end()
		return i.silence(producer, now)
	}
	if got := silence(1); got != 0 {
		t.Fatalf("silent for %v at first sight", got)
	}
	now = now.Add(time.Minute)
	if got := silence(2); got != 0 {
		t.Fatalf("silent for %v at first sight of the next leadership", got)
	}
	now = now.Add(time.Minute)
	if got := silence(2); got != time.Minute {
		t.Fatalf("silent for %v, want a minute", got)
	}
	producer.lastSequence++
	if got := silence(2); got != 0 {
		t.Fatalf("silent for %v after it wrote", got)
	}
}

func TestSnapshotIsTakenAfterEnoughBytes(t *testing.T) {
	r := newRig(t, func(o *Options) { o.SnapshotBytes = 4000 })
	r.leadIn(5)
	taken := func() int { r.raft.mu.Lock(); defer r.raft.mu.Unlock(); return r.raft.snapshots }
	for i := range 10 {
		appended(r.Partition, batchOf(1, 0, int32(i), 1, 200))
	}
	if n := taken(); n != 0 {
		t.Fatalf("%d snapshots below the bound", n)
	}
	for i := range 20 {
		appended(r.Partition, batchOf(1, 0, int32(10+i), 1, 200))
	}
	r.until("a snapshot", func() bool { return taken() > 0 })
}
