package producer

import "testing"

// The values are those of Apache Kafka's UtilsTest.testMurmur2.
func TestMurmur2IsKafkas(t *testing.T) {
	cases := map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	}
	for key, want := range cases {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestKeysStayOnTheirPartition(t *testing.T) {
	for key, want := range map[string]int32{"foobar": (-790332482 & 0x7fffffff) % 7, "": int32(murmur2(nil)&0x7fffffff) % 7} {
		if got := DefaultPartitioner("t", []byte(key), 7); got != want {
			t.Errorf("key %q: partition %d, want %d", key, got, want)
		}
	}
	if DefaultPartitioner("t", nil, 7) != Sticky {
		t.Error("a record without a key is not sticky")
	}
}
