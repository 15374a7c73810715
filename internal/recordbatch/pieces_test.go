package recordbatch

import (
	"math/rand/v2"
	"testing"

	"logbroker/internal/errcode"
)

// cutUp cuts b at random places into slices that share no memory, some empty.
func cutUp(rng *rand.Rand, b []byte, largest int) [][]byte {
	var parts [][]byte
	for len(b) > 0 {
		n := min(rng.IntN(largest+1), len(b))
		parts = append(parts, append([]byte{}, b[:n]...))
		b = b[n:]
	}
	return parts
}

func TestABatchInPiecesReadsAsTheWholeOne(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 9))
	for codec := None; codec <= Zstd; codec++ {
		var all []byte
		var whole []Batch
		for n := range 3 {
			b := build(t, someRecords(20*n+1), codec)
			b.SetBaseOffset(int64(1000 * n))
			whole, all = append(whole, b), append(all, b...)
		}
		for _, largest := range []int{1, 2, 7, 61, 100, 1000, len(all)} {
			rest := cutUp(rng, all, largest)
			for _, want := range whole {
				var p Pieces
				var err error
				if p, rest, err = TakePieces(rest); err != nil {
					t.Fatalf("%s, cuts of up to %d: %v", codec, largest, err)
				}
				requireSameBatch(t, p, want)
			}
			if _, rest, err := TakePieces(rest); err == nil || len(rest) != 0 {
				t.Fatalf("%d pieces follow the last batch", len(rest))
			}
		}
	}
}

func requireSameBatch(t *testing.T, p Pieces, want Batch) {
	t.Helper()
	if p.Size() != want.Size() || p.Header().NextOffset() != want.NextOffset() || p.CheckCRC() != nil {
		t.Fatalf("%d bytes to offset %d (%v), want %d to %d", p.Size(), p.Header().NextOffset(), p.CheckCRC(), want.Size(), want.NextOffset())
	}
	got, err := p.Iterate(IterateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	it, err := want.Iterate(IterateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for it.Next() {
		if !got.Next() {
			t.Fatalf("before offset %d: %v", it.Record().Offset, got.Err())
		}
		requireSame(t, got.Record(), it.Record())
	}
	if got.Next() || got.Err() != nil {
		t.Fatalf("more records, or %v", got.Err())
	}
}

func TestPiecesThatAreNoBatchAreRefused(t *testing.T) {
	batch := build(t, someRecords(5), None)
	for name, parts := range map[string][][]byte{
		"nothing":        nil,
		"empty pieces":   {nil, {}},
		"half a header":  {batch[:30]},
		"a header alone": {batch[:20], batch[20:HeaderSize]},
		"cut short":      {batch[:70], batch[70 : len(batch)-1]},
	} {
		if _, _, err := TakePieces(parts); errcode.Of(err) != errcode.CorruptMessage {
			t.Errorf("%s: %v", name, err)
		}
	}
	damaged := append([]byte{}, batch...)
	damaged[len(damaged)-1] ^= 1
	p, _, err := TakePieces([][]byte{damaged[:len(damaged)-3], damaged[len(damaged)-3:]})
	if err != nil || errcode.Of(p.CheckCRC()) != errcode.CorruptMessage {
		t.Errorf("damage: %v, %v", err, p.CheckCRC())
	}
	if _, err := (Pieces{}).Iterate(IterateOptions{}); errcode.Of(err) != errcode.CorruptMessage {
		t.Errorf("no pieces at all: %v", err)
	}
}

// FuzzPieces cuts anything behind a right header in two places: the records and
// the verdict are those of the whole batch.
func FuzzPieces(f *testing.F) {
	f.Add(int32(1), framed(varints(0, 0, -1, 2, []byte("ab"), 0)), uint16(62), uint16(3))
	f.Add(int32(2), varints(1<<40, []byte("abcdefghijklmnop")), uint16(20), uint16(44))
	f.Fuzz(func(t *testing.T, count int32, records []byte, first, second uint16) {
		batch := wrap(records, None, count)
		at := min(int(first), len(batch))
		then := min(at+int(second), len(batch))
		p, rest, err := TakePieces([][]byte{batch[:at:at], batch[at:then:then], batch[then:]})
		if err != nil || len(rest) != 0 {
			t.Fatalf("%d slices left, %v", len(rest), err)
		}
		want, wantErr := batch.Iterate(IterateOptions{})
		got, err := p.Iterate(IterateOptions{})
		if errcode.Of(err) != errcode.Of(wantErr) {
			t.Fatalf("%v, whole: %v", err, wantErr)
		}
		if err != nil {
			return
		}
		for want.Next() {
			if !got.Next() {
				t.Fatalf("a record less: %v", got.Err())
			}
			requireSame(t, got.Record(), want.Record())
		}
		if got.Next() || errcode.Of(got.Err()) != errcode.Of(want.Err()) {
			t.Fatalf("%v, whole: %v", got.Err(), want.Err())
		}
	})
}
