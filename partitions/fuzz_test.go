package partitions

import (
	"io"
	"maps"
	"testing"

	"logbroker/internal/raftnode"
)

// What is decoded is what would be written.
func FuzzTails(f *testing.F) {
	f.Add(encodeTails(nil))
	f.Add(encodeTails(map[ReplicaKey]raftnode.LogTail{{1001, 1}: {Last: 7, Term: 2, Vote: 1}, {1001, 2}: {}}))
	f.Add([]byte(tailsMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := decodeTails(data)
		if err != nil {
			return
		}
		again, err := decodeTails(encodeTails(all))
		if err != nil || !maps.Equal(again, all) {
			t.Fatalf("%v became %v, %v", all, again, err)
		}
	})
}

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
