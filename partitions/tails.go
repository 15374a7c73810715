package partitions

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"logbroker/internal/raftnode"
	"logbroker/internal/storage"
)

// The file in which it is recorded how far the Raft logs reach, in Options.Dir
// and so on another path than the logs: "LBTAILS" and a version, u8; the number of
// replicas, u32; for each its shard, its id, the index of an entry that its log
// holds, its term and its vote, u64; the CRC-32C of everything before, u32. All
// numbers are little-endian.
const (
	tailsFile        = "tails"
	tailsDamagedFile = "tails.damaged"
	tailsMagic       = "LBTAILS\x01"
	tailsHeaderBytes = len(tailsMagic) + 4
	tailBytes        = 5 * 8
	tailsSumBytes    = 4
)

// tailsInterval is how often that is recorded, at most.
const tailsInterval = time.Second

// tails records how far the Raft logs of this node's replicas reach, so that one
// that was cut short, or an old one that was put back, is noticed at the next start
// before it votes: the marker shows that only where the end of what the state
// machine has on disk is gone too. What is younger than the last record can be cut
// off unnoticed. One file holds all replicas, and it is written only when something
// changed: an idle node's disk stays idle.
type tails struct {
	fs     storage.FS
	dir    string
	node   *raftnode.Node
	logger *slog.Logger

	// writing is held while the file is written.
	writing sync.Mutex

	// mu guards the fields below; held for a moment only.
	mu sync.Mutex
	// recorded is what the file says, or will. A tail only ever rises.
	recorded map[ReplicaKey]raftnode.LogTail
	// started are the replicas whose logs are looked at.
	started map[ReplicaKey]bool
	// changed: the file says something else.
	changed bool
}

// openTails reads what was recorded. A file that is damaged is put aside and its
// loss is said; so is its absence where replicas are. Neither holds up the node:
// the file only guards against a second damage.
func openTails(o *Options) *tails {
	t := &tails{
		fs: o.FS, dir: o.Dir, node: o.Node, logger: o.Logger,
		recorded: map[ReplicaKey]raftnode.LogTail{}, started: map[ReplicaKey]bool{},
	}
	const unguarded = "; until it is written again a Raft log that was cut short is noticed only where it ends below the replica's files"
	path := t.fs.PathJoin(t.dir, tailsFile)
	data, err := storage.ReadFile(t.fs, path)
	if storage.NotExist(err) {
		if t.hasReplicas() {
			t.logger.Warn("it is not recorded how far the Raft logs reach: an older version wrote this directory, or the file is lost"+unguarded, "file", path)
		}
		return t
	}
	if err == nil {
		t.recorded, err = decodeTails(data)
	}
	if err != nil {
		t.logger.Error("the record of how far the Raft logs reach is damaged"+unguarded, "file", path, "err", err)
		if err := t.fs.Rename(path, t.fs.PathJoin(t.dir, tailsDamagedFile)); err != nil {
			t.logger.Warn("the damaged record was not put aside", "file", path, "err", err)
		}
		t.recorded = map[ReplicaKey]raftnode.LogTail{}
	}
	// Where a replica's log is gone altogether the metadata says that it was there.
	maps.DeleteFunc(t.recorded, func(k ReplicaKey, _ raftnode.LogTail) bool { return !t.node.HasReplica(k.Shard, k.Replica) })
	return t
}

func (t *tails) hasReplicas() bool {
	names, err := t.fs.List(t.dir)
	return err == nil && slices.ContainsFunc(names, func(name string) bool {
		_, ok := replicaDirectory(name)
		return ok
	})
}

// check compares what was recorded of a replica with what its Raft log holds now.
func (t *tails) check(k ReplicaKey, now raftnode.LogTail) error {
	t.mu.Lock()
	was := t.recorded[k]
	t.mu.Unlock()
	switch {
	case now.Last < was.Last:
		return fmt.Errorf("%w: it ends at index %d, and is recorded to have reached %d", errShortened, now.Last, was.Last)
	case now.Term < was.Term, now.Term == was.Term && was.Vote != 0 && now.Vote != was.Vote:
		return fmt.Errorf("%w: it ends in term %d with a vote for %d, and is recorded to have voted for %d in term %d",
			errShortened, now.Term, now.Vote, was.Vote, was.Term)
	}
	return nil
}

// watch has the replica's log looked at from now on.
func (t *tails) watch(k ReplicaKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.started[k] = true
}

// forget drops a replica whose Raft log was removed.
func (t *tails) forget(k ReplicaKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.started, k)
	if _, ok := t.recorded[k]; ok {
		delete(t.recorded, k)
		t.changed = true
	}
}

// run records until ctx ends. The Host starts it and waits for it; it blocks on
// the disk.
func (t *tails) run(ctx context.Context) {
	tick := time.NewTicker(tailsInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.record()
		}
	}
}

// record writes the file where something changed. After an error the next call
// tries again.
func (t *tails) record() {
	t.writing.Lock()
	defer t.writing.Unlock()
	data := t.collect()
	if data == nil {
		return
	}
	if err := storage.WriteFileAtomic(t.fs, t.fs.PathJoin(t.dir, tailsFile), data); err != nil {
		t.mu.Lock()
		t.changed = true
		t.mu.Unlock()
		t.logger.Error("cannot record how far the Raft logs reach", "err", err)
	}
}

// collect looks at the logs and returns what the file should say, nil where it
// says so already.
func (t *tails) collect() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.started {
		now, ok := t.node.Reached(k.Shard, k.Replica)
		was := t.recorded[k]
		now.Last = max(now.Last, was.Last)
		if ok && now != was {
			t.recorded[k], t.changed = now, true
		}
	}
	if !t.changed {
		return nil
	}
	t.changed = false
	return encodeTails(t.recorded)
}

func encodeTails(all map[ReplicaKey]raftnode.LogTail) []byte {
	le := binary.LittleEndian
	out := make([]byte, 0, tailsHeaderBytes+len(all)*tailBytes+tailsSumBytes)
	out = le.AppendUint32(append(out, tailsMagic...), uint32(len(all)))
	for _, k := range slices.SortedFunc(maps.Keys(all), ReplicaKey.compare) {
		for _, v := range []uint64{k.Shard, k.Replica, all[k].Last, all[k].Term, all[k].Vote} {
			out = le.AppendUint64(out, v)
		}
	}
	return le.AppendUint32(out, crc32.Checksum(out, crc32.MakeTable(crc32.Castagnoli)))
}

func decodeTails(data []byte) (map[ReplicaKey]raftnode.LogTail, error) {
	le := binary.LittleEndian
	end := len(data) - tailsSumBytes
	switch {
	case end < tailsHeaderBytes:
		return nil, errors.New("it was cut short")
	case crc32.Checksum(data[:end], crc32.MakeTable(crc32.Castagnoli)) != le.Uint32(data[end:]):
		return nil, errors.New("it has a wrong checksum")
	case string(data[:len(tailsMagic)]) != tailsMagic:
		return nil, errors.New("it has an unknown format")
	case uint64(end-tailsHeaderBytes) != uint64(le.Uint32(data[len(tailsMagic):]))*tailBytes:
		return nil, errors.New("it has a wrong length")
	}
	out := make(map[ReplicaKey]raftnode.LogTail)
	for at := tailsHeaderBytes; at < end; at += tailBytes {
		var v [tailBytes / 8]uint64
		for i := range v {
			v[i] = le.Uint64(data[at+8*i:])
		}
		out[ReplicaKey{Shard: v[0], Replica: v[1]}] = raftnode.LogTail{Last: v[2], Term: v[3], Vote: v[4]}
	}
	return out, nil
}
