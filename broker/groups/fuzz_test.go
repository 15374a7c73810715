package groups

import (
	"bytes"
	"strings"
	"testing"
)

// A snapshot that is taken holds no partition with two owners, and is written
// again as one that is taken.
func FuzzRecoverFromSnapshot(f *testing.F) {
	f.Add([]byte(`{"version":1,"epoch":5,"replica":2,"groups":[]}`))
	f.Add([]byte(`{"version":1,"groups":[{"name":"g","epoch":3,"members":[{"id":"a","topics":["t"],"epoch":2,"owned":[{"t":1,"p":0,"granted":1}],"target":[{"t":1,"p":0}]}],"seen":[{"name":"t"}],"offsets":[{"t":1,"p":0,"offset":9,"time_ms":1}]}]}`))
	f.Add([]byte(`{"version":1,"groups":[{"name":"g","empty_since_ms":1}]}`))
	f.Add([]byte(`{"version":1,"groups":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newMachine(func(int32, uint64) {})
		if err := m.RecoverFromSnapshot(bytes.NewReader(data), nil, nil); err != nil {
			return
		}
		var first, second strings.Builder
		if err := m.SaveSnapshot(&first, nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := m.RecoverFromSnapshot(strings.NewReader(first.String()), nil, nil); err != nil {
			t.Fatalf("%s was taken, and not as written again: %v\n%s", data, err, first.String())
		}
		if err := m.SaveSnapshot(&second, nil, nil); err != nil {
			t.Fatal(err)
		}
		if first.String() != second.String() {
			t.Errorf("written again it is another:\n%s\n%s", first.String(), second.String())
		}
	})
}
