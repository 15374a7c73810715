package partitions

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/internal/errcode"
)

func TestAScrubFindsDamageThatNobodyReadsAndTheOthersGoOn(t *testing.T) {
	var found, scrubbed atomic.Int64
	var last atomic.Pointer[Damage]
	c := newCluster(t, 3, func(o *Options) {
		o.ScrubInterval = 10 * time.Millisecond
		o.Stream = nil // nobody can repair it
		o.OnScrubbed = func(n int) { scrubbed.Add(int64(n)) }
		o.OnDamage = func(d Damage) { last.Store(&d); found.Add(1) }
	})
	for i := range 50 {
		c.stored(batchOf(1, 0, int32(i), 1, 200))
	}
	leader := c.leader()
	n := c.nodes[leader.spec.Replica%3]
	p, _ := n.host.Get(shardForTest)
	until(t, "the follower has it all", func() bool { return p.HighWatermark() == 50 })
	path := firstSegment(t, n.fs)
	flipByte(t, n.fs, path)
	until(t, "the damage is found", func() bool { return found.Load() > 0 })
	d := last.Load()
	if d.FoundBy != "scrub" || d.Replica != n.id || d.Topic != "orders" || !strings.Contains(d.Err.Error(), path) {
		t.Errorf("%+v", d)
	}
	if s := p.Status(); s.State != StateDamaged || !strings.Contains(s.Err, path) {
		t.Errorf("status %+v", s)
	}
	if _, err := p.Read(nil, 49, 100); errcode.Of(err) != errcode.StorageError {
		t.Errorf("a damaged replica still serves: %v", err)
	}
	before := scrubbed.Load()
	c.stored(batchOf(1, 0, 50, 1, 200)) // the partition goes on
	until(t, "the others are scrubbed on", func() bool { return scrubbed.Load() > before+20_000 })
	if n := found.Load(); n != 1 {
		t.Errorf("the damage was told %d times", n)
	}
}

func TestTransfersKeepToTheirRate(t *testing.T) {
	both := newTransfers(1 << 20)
	for name, p := range map[string]*pace{"giving": &both.giving, "taking": &both.taking} {
		began := time.Now()
		for range 4 {
			if err := p.wait(t.Context(), 64<<10); err != nil {
				t.Fatal(err)
			}
		}
		// The first three have to pass at the rate before the fourth may.
		if took := time.Since(began); took < 3*62*time.Millisecond-paceBurst {
			t.Errorf("%s: 256 KiB in %v are more than 1 MiB a second", name, took)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := both.taking.wait(ended, 64<<10); err == nil {
		t.Error("it goes on though its context has ended")
	}
}

func TestAScrubKeepsToItsRate(t *testing.T) {
	o := Options{ScrubBytesPerSecond: 1 << 20}.withDefaults()
	s := scrubber{options: &o}
	began := time.Now()
	for range 4 {
		if err := s.pace(t.Context(), 64<<10); err != nil {
			t.Fatal(err)
		}
	}
	// The first three have to pass at the rate before the fourth may.
	if took := time.Since(began); took < 3*62*time.Millisecond {
		t.Errorf("256 KiB in %v are more than 1 MiB a second", took)
	}
}
