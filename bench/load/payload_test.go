package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// testPool is enough for twelve batches.
const testPool = 4 << 20

// batches returns so many batches of about 256 KiB of consecutive values,
// stamped as a fast producer would.
func batches(s *Spec, n int) [][]byte {
	c := newPayload(s, testPool).cursor(0, 1)
	at := time.UnixMicro(1795416249000000)
	all := make([][]byte, n)
	for i := range all {
		for len(all[i]) < 256<<10 {
			from := len(all[i])
			all[i] = append(all[i], c.next()...)
			stamp(s.Payload, all[i][from:], at)
			at = at.Add(5 * time.Microsecond)
		}
	}
	return all
}

// ratio is that of the producer's default codec, zstd at its fastest level.
func ratio(t *testing.T, batches [][]byte) float64 {
	t.Helper()
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	plain, packed := 0, 0
	for _, b := range batches {
		plain, packed = plain+len(b), packed+len(encoder.EncodeAll(b, nil))
	}
	return float64(plain) / float64(packed)
}

func TestEventsShrinkSixfold(t *testing.T) {
	for _, size := range []int{128, 256, 1024, 8 << 10} {
		s := Defaults()
		s.Payload, s.RecordSize = PayloadJSON, size
		r := ratio(t, batches(&s, 12))
		t.Logf("%d bytes: %.2f", size, r)
		if r < 5 || r > 7.5 {
			t.Errorf("record size %d: ratio %.2f, want 5 to 7.5", size, r)
		}
	}
}

// BenchmarkZstdOfEvents is what one core compresses as the producer does: no
// producer of events is faster per core, whatever else it does.
func BenchmarkZstdOfEvents(b *testing.B) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{128, 1024} {
		s := Defaults()
		s.Payload, s.RecordSize = PayloadJSON, size
		for _, parts := range []int{1, 4} {
			var blocks [][]byte
			for part := range slices.Chunk(batches(&s, 12), parts) {
				blocks = append(blocks, bytes.Join(part, nil))
			}
			b.Run(fmt.Sprintf("%d/%dKiB", size, len(blocks[0])>>10), func(b *testing.B) {
				var out []byte
				plain, packed := 0, 0
				for i := 0; b.Loop(); i++ {
					block := blocks[i%len(blocks)]
					out = encoder.EncodeAll(block, out[:0])
					plain, packed = plain+len(block), packed+len(out)
				}
				b.SetBytes(int64(len(blocks[0])))
				b.ReportMetric(float64(plain)/float64(packed), "ratio")
			})
		}
	}
}

func TestRandomBytesDoNotShrink(t *testing.T) {
	for _, size := range []int{recordSizeMin, 100} {
		s := Defaults()
		s.RecordSize = size
		if r := ratio(t, batches(&s, 12)); r > 1.01 {
			t.Errorf("record size %d: ratio %.3f", size, r)
		}
	}
}

func TestEventsAreJSONOfTheSizeAskedFor(t *testing.T) {
	for _, size := range []int{jsonRecordSizeMin, 1000, 5000} {
		s := Defaults()
		s.Payload, s.RecordSize = PayloadJSON, size
		p := newPayload(&s, 1<<20)
		c := p.cursor(1, 3)
		sum, values := 0, 800
		for range values {
			value := c.next()
			sum += len(value)
			if d := math.Abs(float64(len(value)-size)) / float64(size); d > 0.2 {
				t.Fatalf("record size %d: a value has %d bytes", size, len(value))
			}
			var event map[string]any
			if err := json.Unmarshal(value, &event); err != nil {
				t.Fatalf("%v in %s", err, value)
			}
		}
		if mean := float64(sum) / float64(values); math.Abs(mean-float64(size)) > 0.02*float64(size) {
			t.Errorf("record size %d: %.1f on average", size, mean)
		}
	}
}

func TestTheSameSeedMakesTheSamePayload(t *testing.T) {
	for _, kind := range []string{PayloadRandom, PayloadJSON} {
		s := Defaults()
		s.Payload = kind
		a, b := newPayload(&s, 1<<18), newPayload(&s, 1<<18)
		s.Seed++
		other := newPayload(&s, 1<<18)
		if string(a.data) != string(b.data) || string(a.data) == string(other.data) {
			t.Errorf("%s: the seed does not decide", kind)
		}
	}
}

func TestStampComesBack(t *testing.T) {
	at := time.UnixMicro(1795416249123456)
	for _, kind := range []string{PayloadRandom, PayloadJSON} {
		s := Defaults()
		s.Payload, s.RecordSize = kind, 128
		value := append([]byte(nil), newPayload(&s, 1<<18).cursor(0, 1).next()...)
		stamp(kind, value, at)
		if got, err := stamped(kind, value); err != nil || !got.Equal(at) {
			t.Errorf("%s: %v, %v", kind, got, err)
		}
		if _, err := stamped(kind, value[:recordSizeMin-1]); err == nil {
			t.Errorf("%s: a value that is too short was taken", kind)
		}
	}
}
