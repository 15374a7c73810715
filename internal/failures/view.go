package failures

import (
	"fmt"
	"strings"

	"logbroker/internal/raftnode"
	"logbroker/internal/recordbatch"
	"logbroker/partitions"
	"logbroker/partitions/fsm"
)

// Entry is one entry of a replica's Raft log.
type Entry struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	// What it holds: the records' names, "epoch 3", or "new leader".
	What string `json:"what"`
	// Committed: this replica knows that it is.
	Committed bool `json:"committed"`
}

// Replica is what a node's replica of the partition looks like at a step.
type Replica struct {
	// Name is the node's part in the story: A leads at first.
	Name string `json:"name"`
	Node uint64 `json:"node"`
	// Role is leader, follower, candidate (it knows no leader), or down.
	Role string `json:"role"`
	// Term, Last and Commit are Raft's: the newest term it knows, the index of its
	// last entry, and up to which it knows that the entries are committed.
	Term   uint64 `json:"term"`
	Last   uint64 `json:"last"`
	Commit uint64 `json:"commit"`
	// Tail is the end of its log.
	Tail []Entry `json:"tail"`
}

// tailMax bounds the entries of a step.
const tailMax = 4

// allEntries is more than any play writes.
const allEntries = 10_000

// entries returns the end of a node's Raft log; none where it is down.
func (s *stage) entries(n *node, count int) ([]raftnode.LogEntry, error) {
	b := n.broker.Load()
	if b == nil {
		return nil, nil
	}
	return b.RaftTail(s.shard.Load(), count)
}

// replica returns a node's replica of the partition, nil where it does not run.
func (s *stage) replica(n *node) *partitions.Partition {
	b := n.broker.Load()
	if b == nil {
		return nil
	}
	p, ok := b.Replica(s.topic, 0)
	if !ok {
		return nil
	}
	return p
}

// status returns the replica's state, the zero one where it does not run.
func (s *stage) status(n *node) partitions.Status {
	if p := s.replica(n); p != nil {
		return p.Status()
	}
	return partitions.Status{}
}

// view returns what a replica looks like.
func (s *stage) view(n *node, name string) (Replica, error) {
	r := Replica{Name: name, Node: n.id, Role: "down", Tail: []Entry{}}
	p := s.replica(n)
	if p == nil {
		return r, nil
	}
	status := p.Status()
	r.Role, r.Term, r.Last, r.Commit = status.Role, status.Term, status.Last, max(status.Commit, status.Applied)
	if r.Role == "unknown" {
		r.Role = "candidate"
	}
	entries, err := s.entries(n, tailMax)
	for _, e := range entries {
		r.Tail = append(r.Tail, Entry{Index: e.Index, Term: e.Term, What: describe(e), Committed: e.Index <= r.Commit})
	}
	return r, err
}

// describe says what an entry holds.
func describe(e raftnode.LogEntry) string {
	if e.Command == nil {
		return "new leader"
	}
	what, batch := fsm.Inspect(e.Command)
	if batch == nil {
		return what
	}
	names, err := recordNames(batch)
	if err != nil {
		return err.Error()
	}
	return strings.Join(names, ", ")
}

// recordNames returns the names of a batch's records: the first word of each.
func recordNames(b recordbatch.Batch) ([]string, error) {
	it, err := b.Iterate(recordbatch.IterateOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for it.Next() {
		name, _, _ := strings.Cut(string(it.Record().Value), " ")
		names = append(names, name)
	}
	return names, it.Err()
}

// namesIn counts by name the records in a node's Raft log.
func (s *stage) namesIn(n *node) (map[string]int, error) {
	entries, err := s.entries(n, allEntries)
	found := map[string]int{}
	for _, e := range entries {
		_, batch := fsm.Inspect(e.Command)
		if batch == nil {
			continue
		}
		names, err := recordNames(batch)
		if err != nil {
			return nil, fmt.Errorf("entry %d of node %d: %w", e.Index, n.id, err)
		}
		for _, name := range names {
			found[name]++
		}
	}
	return found, err
}
