package producer

import (
	"testing"

	"logbroker/internal/murmur2"
)

func TestKeysStayOnTheirPartition(t *testing.T) {
	for key, want := range map[string]int32{"foobar": (-790332482 & 0x7fffffff) % 7, "": murmur2.Partition(nil, 7)} {
		if got := DefaultPartitioner("t", []byte(key), 7); got != want {
			t.Errorf("key %q: partition %d, want %d", key, got, want)
		}
	}
	if DefaultPartitioner("t", nil, 7) != Sticky {
		t.Error("a record without a key is not sticky")
	}
}

// Small batches stay together on one partition, full ones go round.
func TestStickyMovesOnWhenAPartitionHasGotItsShare(t *testing.T) {
	s := &sticky{share: stickyBytes}
	s.count.Store(3)
	for got := 0; got < stickyBytes; got += 1000 {
		if now := s.now.Load(); now != 0 {
			t.Fatalf("moved to partition %d after %d bytes", now, got)
		}
		s.closed(0, 1000)
	}
	next := s.now.Load()
	if next == 0 {
		t.Fatalf("still on partition 0 after %d bytes", stickyBytes)
	}
	s.closed(0, stickyBytes) // a batch of a partition that it has left
	s.closed(next, 1)
	if now := s.now.Load(); now != next {
		t.Fatalf("left partition %d for %d with its share not used", next, now)
	}
	s.closed(next, stickyBytes)
	if now := s.now.Load(); now == next {
		t.Fatalf("still on partition %d after a full batch", next)
	}
}

// A partition that fails gets no more keyless records than it has.
func TestStickyLeavesAPartitionThatFails(t *testing.T) {
	s := new(sticky)
	s.count.Store(2)
	s.leave(1) // not the one it is on
	s.leave(0)
	if now := s.now.Load(); now != 1 {
		t.Fatalf("on partition %d, want 1", now)
	}
}
