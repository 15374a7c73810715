package raftnode

import pb "github.com/lni/dragonboat/v4/raftpb"

const (
	// readBackAsked is what dragonboat asks the log for where it sends a follower
	// what that lacks, or applies what it has not in memory (settings.MaxEntrySize,
	// MaxApplyEntrySize). It does so for every shard and follower by itself, with
	// every heartbeat's answer.
	readBackAsked = 64 << 20
	// readBackMax is what it is given. With it a follower that lags gets 40 MB/s for
	// each shard by heartbeats alone, and as much again as it answers.
	readBackMax = 2 << 20
)

// IterateEntries implements raftio.ILogDB. A follower behind by much, in many
// shards, would have the leader hold 64 MiB for each of them, most of which its
// send queue then drops. So such a read ends after readBackMax, as if the limit
// that was given had been reached there: dragonboat goes on from where it ended.
func (s *logStore) IterateEntries(entries []pb.Entry, size, shard, replica, low, high, maxSize uint64) ([]pb.Entry, uint64, error) {
	limit := maxSize
	if maxSize == readBackAsked {
		limit = readBackMax
	}
	entries, size, err := s.ILogDB.IterateEntries(entries, size, shard, replica, low, high, limit)
	if size > limit && limit != 0 {
		size = max(size, maxSize+1) // which says that there is more
	}
	return entries, size, err
}
