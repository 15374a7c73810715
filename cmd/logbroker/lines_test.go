package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func readLines(t *testing.T, in io.Reader, terminator string, per int) (records []string, numbers []int64) {
	t.Helper()
	l := newLineReader(in, []byte(terminator), per)
	for {
		record, err := l.next(t.Context())
		switch {
		case errors.Is(err, io.EOF):
			return records, numbers
		case errors.Is(err, errRecordTooLong):
			record = []byte("TOO LONG")
		case err != nil:
			t.Fatal(err)
		}
		records, numbers = append(records, string(record)), append(numbers, l.line)
	}
}

func TestLinesAreCutWhateverTheReadsReturn(t *testing.T) {
	for _, c := range []struct {
		in, terminator string
		per            int
		want           []string
		numbers        []int64
	}{
		{"", "\n", 1, nil, nil},
		{"a\nb\n", "\n", 1, []string{"a", "b"}, []int64{1, 2}},
		{"a\nb", "\n", 1, []string{"a", "b"}, []int64{1, 2}},
		{"\n\nx\n", "\n", 1, []string{"", "", "x"}, []int64{1, 2, 3}},
		{"a\r\n", "\n", 1, []string{"a\r"}, []int64{1}},
		{"a\nb\nc\nd\n", "\n", 2, []string{"a\nb", "c\nd"}, []int64{1, 3}},
		{"a\nb\nc", "\n", 2, []string{"a\nb", "c"}, []int64{1, 3}},
		{"a;b;\n", ";", 1, []string{"a", "b"}, []int64{1, 2}},
		{"a<>b<c><>d", "<>", 1, []string{"a", "b<c>", "d"}, []int64{1, 2, 3}},
	} {
		for name, in := range map[string]io.Reader{
			"whole": strings.NewReader(c.in), "bytes": iotest.OneByteReader(strings.NewReader(c.in)),
			"error with data": iotest.DataErrReader(strings.NewReader(c.in)),
		} {
			got, numbers := readLines(t, in, c.terminator, c.per)
			if !slices.Equal(got, c.want) || !slices.Equal(numbers, c.numbers) {
				t.Errorf("%q by %q, %s: %q %v, want %q %v", c.in, c.terminator, name, got, numbers, c.want, c.numbers)
			}
		}
	}
}

func TestALineThatIsTooLongLosesNothingElse(t *testing.T) {
	long := strings.Repeat("x", recordBytesMax+3*chunkBytes)
	got, numbers := readLines(t, strings.NewReader("a\n"+long+"\nb\n"+long), "\n", 1)
	if want := []string{"a", "TOO LONG", "b", "TOO LONG"}; !slices.Equal(got, want) || !slices.Equal(numbers, []int64{1, 2, 3, 4}) {
		t.Fatalf("%q %v", got, numbers)
	}
}

func TestLongLinesDoNotGrowMemory(t *testing.T) {
	l := newLineReader(io.LimitReader(zeros{}, 64<<20), []byte("\n"), 1)
	if _, err := l.next(t.Context()); !errors.Is(err, errRecordTooLong) {
		t.Fatal(err)
	}
	if n := cap(l.pending); n > 4*recordBytesMax {
		t.Fatalf("%d bytes are held", n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestLinesThatWereReadComeBeforeTheInterruption(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	l := newLineReader(r, []byte("\n"), 1)
	go w.Write([]byte("a\nb\nhalf"))
	ctx, cancel := context.WithCancel(t.Context())
	first, err := l.next(ctx)
	if err != nil || string(first) != "a" {
		t.Fatal(string(first), err)
	}
	cancel()
	second, err := l.next(ctx)
	if err != nil || string(second) != "b" {
		t.Fatal(string(second), err)
	}
	if _, err := l.next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestAnErrorOfTheInputComesAfterItsLines(t *testing.T) {
	broken := errors.New("broken")
	l := newLineReader(io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken)), []byte("\n"), 1)
	for _, want := range []string{"a", "b"} {
		if got, err := l.next(t.Context()); err != nil || string(got) != want {
			t.Fatal(string(got), err)
		}
	}
	if _, err := l.next(t.Context()); !errors.Is(err, broken) {
		t.Fatal(err)
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"), 1, 3)
	f.Add([]byte("a\n"), 2, 1)
	f.Fuzz(func(t *testing.T, in []byte, per, size int) {
		per, size = 1+per&3, 1+size&7
		var want []string
		for rest := in; len(rest) > 0; {
			end, found := 0, 0
			for found < per && end < len(rest) {
				i := bytes.IndexByte(rest[end:], '\n')
				if i < 0 {
					end = len(rest)
					break
				}
				end, found = end+i+1, found+1
			}
			record := rest[:end]
			if found == per {
				record = record[:end-1]
			}
			want, rest = append(want, string(record)), rest[end:]
		}
		got, _ := readLines(t, &pieces{in, size}, "\n", per)
		if !slices.Equal(got, want) {
			t.Fatalf("%q by %d: %q, want %q", in, per, got, want)
		}
	})
}

// pieces reads a few bytes at a time.
type pieces struct {
	data []byte
	size int
}

func (p *pieces) Read(dst []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(dst, p.data[:min(p.size, len(p.data))])
	p.data = p.data[n:]
	return n, nil
}
