package murmur2

import "testing"

// The values are those of Apache Kafka's UtilsTest.testMurmur2.
func TestSumIsKafkas(t *testing.T) {
	for key, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(Sum([]byte(key))); got != want {
			t.Errorf("Sum(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestPartitionTakesThePositiveHash(t *testing.T) {
	if got, want := Partition([]byte("foobar"), 7), int32((-790332482&0x7fffffff)%7); got != want {
		t.Errorf("partition %d, want %d", got, want)
	}
}
