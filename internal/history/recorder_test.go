package history

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

func TestEventsComeBackFromTheirFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "one.jsonl")
	r, err := Create(file, "one")
	if err != nil {
		t.Fatal(err)
	}
	want := []Event{
		{Kind: Begin, At: 1, Process: "one", Group: "g", Member: "\"m\\\n", Flushed: true},
		{Kind: Invoke, At: 2, Process: "two", Message: 1<<64 - 1, Producer: 1 << 63, Sequence: -1},
		{Kind: Stored, At: 3, Process: "one", Replica: 3, Partition: 7, Offset: 1<<63 - 1, Message: 5},
		{Kind: Committed, At: 5, Began: 4, Process: "one", Group: "g", Member: "m", Epoch: 2, Note: "ü <&>"},
	}
	for k := Kind(1); k < kinds; k++ {
		want = append(want, Event{Kind: k, At: 6, Process: "one"})
	}
	r.Record(want...)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.Record(Event{Kind: Lost})
	if err := r.Flush(); !errors.Is(err, ErrClosed) {
		t.Errorf("flushing a closed recorder: %v", err)
	}
	got, torn, err := Load(file)
	if err != nil || torn != 0 {
		t.Fatal(torn, err)
	}
	if end := got[len(got)-1]; end.Kind != End || end.At == 0 || end.Process != "one" {
		t.Errorf("the file ends with %+v", end)
	}
	if got = got[:len(got)-1]; !slices.Equal(got, want) {
		t.Errorf("read back\n%+v\nwant\n%+v", got, want)
	}
}

// TestAKilledProcessLosesItsTailOnly looks at the file while the process still
// writes, and at the same one cut short.
func TestAKilledProcessLosesItsTailOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "killed.jsonl")
	r, err := Create(file, "killed")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.Record(Event{Kind: Begin}, Event{Kind: Delivered, Offset: 1})
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	r.Record(Event{Kind: Delivered, Offset: 2})
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(data) + 1 {
		events, torn, err := Decode(data[:cut])
		if err != nil || len(events) > 2 || torn != (cut > 0 && data[cut-1] != '\n') {
			t.Fatalf("cut at %d of %d: %d events, torn %v, %v", cut, len(data), len(events), torn, err)
		}
		if cut == len(data) && len(events) != 2 {
			t.Errorf("%d events were flushed, 2 were to be", len(events))
		}
	}
}

func TestTheBufferIsBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "busy.jsonl")
	r, err := Create(file, "busy")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 5000 {
				r.Record(Event{Kind: Delivered, Offset: int64(i)})
			}
		})
	}
	all.Wait()
	if len(r.buffer) > bufferBytesMax || cap(r.buffer) > 4*bufferBytesMax {
		t.Errorf("%d bytes are held back in a buffer of %d", len(r.buffer), cap(r.buffer))
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	events, torn, err := Load(file)
	if err != nil || torn != 0 || len(events) != 20_001 {
		t.Fatalf("%d events, %d torn, %v", len(events), torn, err)
	}
}

func TestWhatIsNoEventIsRefusedByItsLine(t *testing.T) {
	for _, text := range []string{"{}\n", "nonsense\n", `{"k":"ok","t":"x"}` + "\n", `{"k":"","t":1}` + "\n"} {
		if _, _, err := Decode([]byte(text)); err == nil {
			t.Errorf("%q is taken for an event", text)
		}
	}
	if _, _, err := Load(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there is read")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(Event{Kind: Delivered, At: 1, Group: "g", Offset: 3}.String() + "\n"))
	f.Add([]byte(`{"k":"ok","t":1`))
	f.Fuzz(func(t *testing.T, data []byte) {
		events, _, err := Decode(data)
		if err != nil {
			return
		}
		Check(events, Options{HandOutMax: 1})
		var again []byte
		for _, e := range events {
			again = append(e.append(again), '\n')
		}
		back, torn, err := Decode(again)
		if err != nil || torn || !slices.Equal(back, events) {
			t.Fatalf("%+v came back as %+v, %v, %v", events, back, torn, err)
		}
	})
}
