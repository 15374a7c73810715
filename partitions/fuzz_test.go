package partitions

import (
	"io"
	"testing"
)

// A peer's request for segments is answered or refused, whatever it asks for.
func FuzzServeStream(f *testing.F) {
	f.Add([]byte(`{"version":1,"shard":1001,"manifest":true}`))
	f.Add([]byte(`{"version":1,"shard":1001,"base":0,"from":0,"to":100}`))
	f.Add([]byte(`{"version":1,"shard":1001,"base":0,"from":-5,"to":-1}`))
	f.Add([]byte(`{"version":1,"shard":1001,"base":0,"from":9223372036854775807,"to":9223372036854775807}`))
	f.Add([]byte(`{"version":1,"shard":7}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, request []byte) {
		r := newRig(t, nil)
		r.leadIn(5)
		appended(r.Partition, numbered(1, 0, 0, 1))
		h := &Host{options: *r.options, replicas: map[uint64]*replica{1001: {Partition: r.Partition}}}
		if err := h.ServeStream(t.Context(), request, io.Discard); err == nil {
			return
		}
	})
}
