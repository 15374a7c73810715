package recordbatch

import (
	"bytes"
	"testing"
)

func TestSmoke(t *testing.T) {
	for c := None; c <= Zstd; c++ {
		b := NewBuilder()
		for i := range 100 {
			b.Append(int64(1000+i), []byte("key"), bytes.Repeat([]byte("v"), 100), []Header{{"h", nil}})
		}
		out, err := b.Build([]byte("xx"), c)
		if err != nil {
			t.Fatal(err)
		}
		batch, rest, err := Parse(out[2:])
		if err != nil || len(rest) != 0 || batch.Validate(0) != nil || batch.Codec() != c {
			t.Fatal(err, batch.Codec())
		}
		it, err := batch.Iterate(IterateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for it.Next() {
			n++
		}
		if n != 100 || it.Err() != nil {
			t.Fatal(n, it.Err())
		}
	}
}
