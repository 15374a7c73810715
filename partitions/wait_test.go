package partitions

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestWaitersAreWokenOnceWhenTheirOffsetCanBeRead(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	var woken [5]atomic.Int32
	for i := range woken {
		r.WaitFor(int64(i), func() { woken[i].Add(1) })
	}
	cancel := r.WaitFor(1, func() { t.Error("a cancelled wait was woken") })
	cancel()
	cancel()
	for i := range 3 {
		if a := appended(r.Partition, numbered(1, 0, int32(i), 1)); a.Err != nil {
			t.Fatal(a.Err)
		}
		for w := range woken {
			want := int32(0)
			if w <= i {
				want = 1
			}
			if got := woken[w].Load(); got != want {
				t.Fatalf("at high watermark %d: waiter at %d was woken %d times", i+1, w, got)
			}
		}
	}
	now := false
	r.WaitFor(2, func() { now = true })
	if !now {
		t.Error("a wait for what can be read must be woken at once")
	}
}

func TestStoppingWakesEverybodyAndLaterWaitsToo(t *testing.T) {
	r := newRig(t, nil)
	var woken atomic.Int32
	for range 10 {
		r.WaitFor(100, func() { woken.Add(1) })
	}
	r.waiters.wakeAll()
	r.WaitFor(100, func() { woken.Add(1) })
	if n := woken.Load(); n != 11 {
		t.Fatalf("%d of 11 were woken", n)
	}
}

func TestNoWakeUpIsLostBesideAppends(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	const n = 500
	var waits sync.WaitGroup
	waits.Add(2)
	for range 2 {
		go func() { // ended by the last append
			defer waits.Done()
			for i := range n {
				woken := make(chan struct{})
				r.WaitFor(int64(i), func() { close(woken) })
				<-woken
			}
		}()
	}
	for i := range n {
		if a := appended(r.Partition, numbered(1, 0, int32(i), 1)); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	waits.Wait()
}
