package handler

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

const (
	// endsTimeout bounds how long a commit waits for what a leader says of the end
	// of its log; endsConfirm how long the leader waits for a majority.
	endsTimeout = 500 * time.Millisecond
	endsConfirm = 400 * time.Millisecond
	// endsSilence is how long a node that did not answer is not asked again, so
	// that a node that died costs commits endsTimeout once a second at most.
	endsSilence = time.Second
	// logEndsMax bounds the shards whose ends are remembered.
	logEndsMax = 64 << 10
)

// groupCommit passes a commit on to the coordinator, without the offsets that
// lie beyond the end of their log: those are refused here, each for itself,
// because a coordinator has no logs. An offset below the log start is fine:
// retention may have passed a slow member.
//
// What this node's own replica, or the memory of what leaders said, covers costs
// nothing: a high watermark never falls. For the rest the leaders are asked, all
// at once and each for all of its partitions. Where one does not answer within
// endsTimeout, the offset is stored unseen: a group must be able to commit while
// a partition has no leader.
func (h *Handler) groupCommit(call groupCall) {
	req, err := decodeGroup[protocol.CommitRequest](call)
	if err != nil {
		call.done(nil, err)
		return
	}
	doubts := h.beyondKnown(req.Offsets)
	ask := func() { h.commitWithin(call, req, h.beyondEnd(call.ctx, doubts)) }
	if len(doubts) == 0 || !h.endsPool.submit(ask) {
		h.commitWithin(call, req, nil)
	}
}

// commitWithin commits what is not refused already. refused is by the place in
// the request.
func (h *Handler) commitWithin(call groupCall, req protocol.CommitRequest, refused map[int]error) {
	all := req.Offsets
	if len(refused) > 0 {
		req.Offsets = nil
		for i, o := range all {
			if refused[i] == nil {
				req.Offsets = append(req.Offsets, o)
			}
		}
	}
	h.options.Groups.Commit(call.ctx, req, func(r *protocol.CommitReply, err error) {
		if err != nil || len(refused) == 0 {
			call.done(r, err)
			return
		}
		out := &protocol.CommitReply{Results: make([]protocol.OffsetResult, len(all))}
		rest := r.Results
		for i, o := range all {
			if err := refused[i]; err != nil {
				out.Results[i] = protocol.OffsetResult{Topic: o.Topic, Partition: o.Partition, Error: protocol.NewControlError(err)}
				continue
			}
			out.Results[i], rest = rest[0], rest[1:]
		}
		call.done(out, nil)
	})
}

// doubt is an offset of a commit that may lie beyond the end of its log.
type doubt struct {
	at     int // in the request
	offset protocol.CommittedOffset
	shard  uint64
	leader uint64
}

// beyondKnown returns the offsets that are not known to lie within their logs
// and whose leader can be asked. What the coordinator refuses in any case is not
// among them.
func (h *Handler) beyondKnown(offsets []protocol.CommittedOffset) (out []doubt) {
	image := h.options.Metadata.Image()
	var topic *metadata.Topic
	for i, o := range offsets {
		if topic == nil || topic.Name != o.Topic { // they come topic by topic
			t, ok := image.Topic(o.Topic)
			if !ok {
				continue
			}
			topic = t
		}
		if o.TopicID != 0 && o.TopicID != topic.ID || o.Offset <= 0 || o.Partition < 0 || int(o.Partition) >= len(topic.Partitions) {
			continue
		}
		t := target{shard: topic.Partitions[o.Partition].Shard}
		if r, ok := h.options.Replicas.Get(t.shard); ok {
			if o.Offset <= r.HighWatermark() {
				continue
			}
			t.replica = r
		}
		if h.logEnds.reaches(t.shard, o.Offset) {
			continue
		}
		if leader, _ := h.hint(t); leader != 0 && !h.logEnds.isSilent(leader, h.options.Clock()) {
			out = append(out, doubt{i, o, t.shard, leader})
		}
	}
	return out
}

// beyondEnd asks the leaders, and returns why offsets are refused, by their
// place in the request.
func (h *Handler) beyondEnd(ctx context.Context, doubts []doubt) map[int]error {
	ctx, cancel := context.WithTimeout(ctx, endsTimeout)
	defer cancel()
	byLeader := map[uint64]map[uint64]int64{}
	for _, d := range doubts {
		if byLeader[d.leader] == nil {
			byLeader[d.leader] = map[uint64]int64{}
		}
		byLeader[d.leader][d.shard] = max(d.offset.Offset, byLeader[d.leader][d.shard])
	}
	leaders := slices.Sorted(maps.Keys(byLeader))
	ends := map[uint64]int64{}
	var mu sync.Mutex // guards ends
	inParallel(len(leaders), len(leaders), func(i int) {
		req := protocol.NodeEnds{Version: protocol.ControlVersion}
		for shard, offset := range byLeader[leaders[i]] {
			req.Ends = append(req.Ends, protocol.ShardEnd{Shard: shard, Offset: offset})
		}
		var reply protocol.NodeEnds
		if err := h.call(ctx, leaders[i], protocol.VerbNodeEnds, req, &reply); err != nil {
			h.options.Logger.Debug("node did not tell the ends of its logs", "node", leaders[i], "err", err)
			h.logEnds.silent(leaders[i], h.options.Clock().Add(endsSilence))
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range reply.Ends {
			h.logEnds.raise(e.Shard, e.Offset)
			ends[e.Shard] = e.Offset
		}
	})
	refused := map[int]error{}
	for _, d := range doubts {
		if end, known := ends[d.shard]; known && d.offset.Offset > end {
			refused[d.at] = errcode.New(errcode.OffsetOutOfRange, "%s/%d ends at offset %d; %d cannot be committed",
				d.offset.Topic, d.offset.Partition, end, d.offset.Offset)
		}
	}
	return refused
}

// nodeEnds tells how far the logs reach that this node leads. Before an offset
// is said to lie beyond an end, a majority confirms that this node still leads:
// one that was deposed without knowing it has a stale end.
func (h *Handler) nodeEnds(ctx context.Context, req protocol.NodeEnds) (*protocol.NodeEnds, error) {
	ctx, cancel := context.WithTimeout(ctx, endsConfirm)
	defer cancel()
	reply := &protocol.NodeEnds{Version: protocol.ControlVersion}
	var mu sync.Mutex // guards reply
	inParallel(len(req.Ends), callsMax, func(i int) {
		ask := req.Ends[i]
		r, ok := h.options.Replicas.Get(ask.Shard)
		if !ok {
			return
		}
		end := r.HighWatermark()
		if end < ask.Offset {
			var err error
			if end, err = r.Latest(ctx); err != nil {
				return
			}
		}
		mu.Lock()
		defer mu.Unlock()
		reply.Ends = append(reply.Ends, protocol.ShardEnd{Shard: ask.Shard, Offset: end})
	})
	return reply, ctx.Err()
}

// logEnds remembers how far logs reach whose leaders were asked, and which
// nodes do not answer. What it forgets is asked again.
type logEnds struct {
	mu sync.Mutex // guards what follows
	// ends is by shard and only rises: a shard's number and what is committed in
	// it are never used again.
	ends    map[uint64]int64
	silence map[uint64]time.Time // by node: when to ask it again
}

func newLogEnds() *logEnds {
	return &logEnds{ends: map[uint64]int64{}, silence: map[uint64]time.Time{}}
}

func (l *logEnds) reaches(shard uint64, offset int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ends[shard] >= offset
}

// raise notes that shard's log reaches offset. Where there is no room, some
// other shard is forgotten.
func (l *logEnds) raise(shard uint64, offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.ends[shard]; !known && len(l.ends) >= logEndsMax {
		for other := range l.ends {
			delete(l.ends, other)
			break
		}
	}
	l.ends[shard] = max(offset, l.ends[shard])
}

func (l *logEnds) silent(node uint64, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silence[node] = until
}

func (l *logEnds) isSilent(node uint64, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Before(l.silence[node])
}
