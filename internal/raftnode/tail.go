package raftnode

import (
	"fmt"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// LogEntry is an entry of a Raft log. Command is nil where it carries none: a new
// leader's first entry, a change of membership.
type LogEntry struct {
	Index, Term uint64
	Command     []byte
}

// Tail returns the last entries of the local replica's Raft log, at most count,
// as they are on disk: they need not be committed, and a leader may replace them.
// nil where no replica of the shard runs here.
func (n *Node) Tail(shard uint64, count int) ([]LogEntry, error) {
	local, ok := n.replicas.Load(shard)
	if !ok {
		return nil, nil
	}
	if err := n.enter(); err != nil {
		return nil, err
	}
	defer n.leave()
	replica := local.(*replica).id
	last := n.store.status(shard, replica).Last
	if last == 0 {
		return nil, nil
	}
	snapshot, err := n.store.GetSnapshot(shard, replica)
	if err != nil {
		return nil, fmt.Errorf("raftnode: read the snapshot record of shard %d replica %d: %w", shard, replica, err)
	}
	first := snapshot.Index + 1
	if wanted := uint64(count); last >= first+wanted {
		first = last - wanted + 1
	}
	entries, _, err := n.store.IterateEntries(nil, 0, shard, replica, first, last+1, ^uint64(0))
	if err != nil {
		return nil, fmt.Errorf("raftnode: read the log of shard %d replica %d: %w", shard, replica, err)
	}
	out := make([]LogEntry, 0, len(entries))
	for _, e := range entries {
		out = append(out, LogEntry{Index: e.Index, Term: e.Term, Command: proposed(e)})
	}
	return out, nil
}

// proposed returns an entry's command as it was proposed: dragonboat puts one
// byte (version, codec "none", no session) in front.
func proposed(e pb.Entry) []byte {
	switch {
	case e.Type == pb.EncodedEntry && len(e.Cmd) > 0:
		return e.Cmd[1:]
	case e.Type == pb.ApplicationEntry && len(e.Cmd) > 0:
		return e.Cmd
	}
	return nil
}
