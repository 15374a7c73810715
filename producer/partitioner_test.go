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
