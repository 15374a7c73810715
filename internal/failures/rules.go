package failures

import (
	"sync"

	"logbroker/internal/raftnode/chantransport"
)

// rules decide what becomes of a Raft message. They hold for the partition's
// shard only, but silence and standing still for all shards of a node.
type rules struct {
	// mu guards everything below; it is held for a moment per message.
	mu sync.Mutex
	// silent nodes hear nobody and nobody hears them; what is sent is lost. Still
	// ones get it later. By Raft address.
	silent, still map[string]bool
	// alone is a node whose replica of the partition hears nobody; "" for none.
	alone string
	// candidates may stand for election, nil: all. Without that rule a slow machine
	// would hold an election in the middle of a stage.
	candidates map[string]bool
	// lose says which of the partition's messages are lost; nil: none.
	lose func(chantransport.Message) bool
	// refused are voters that refused somebody.
	refused map[[2]string]bool
	// beats counts heartbeats by who sent them.
	beats map[string]int
}

// init ends all rules. mu is held, or nobody else has r yet.
func (r *rules) init() {
	r.silent, r.still = map[string]bool{}, map[string]bool{}
	r.alone, r.candidates, r.lose = "", nil, nil
	r.refused, r.beats = map[[2]string]bool{}, map[string]int{}
}

func (r *rules) set(change func(*rules)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

// judge is the network's interceptor.
func (s *stage) judge(m chantransport.Message) chantransport.Verdict {
	r := &s.rules
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.silent[m.FromAddress] || r.silent[m.ToAddress]:
		return chantransport.Drop
	case r.still[m.FromAddress] || r.still[m.ToAddress]:
		return chantransport.Hold
	case m.Shard != s.shard.Load():
		return chantransport.Deliver
	case r.lost(m):
		return chantransport.Drop
	}
	r.note(m)
	return chantransport.Deliver
}

// lost decides about a message of the partition. mu is held.
func (r *rules) lost(m chantransport.Message) bool {
	switch {
	case r.alone != "" && (m.FromAddress == r.alone || m.ToAddress == r.alone):
		return true
	case m.Type == "RequestPreVote" || m.Type == "RequestVote":
		return r.candidates != nil && !r.candidates[m.FromAddress]
	}
	return r.lose != nil && r.lose(m)
}

// note counts what is delivered. mu is held.
func (r *rules) note(m chantransport.Message) {
	switch m.Type {
	case "RequestPreVoteResp", "RequestVoteResp":
		if m.Reject {
			r.refused[[2]string{m.FromAddress, m.ToAddress}] = true
		}
	case "Heartbeat":
		r.beats[m.FromAddress]++
	}
}
