package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"logbroker/broker/groups"
	"logbroker/broker/metadata"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// Groups is what the handler uses of groups.Host. An error that is
// groups.ErrElsewhere means that this node has nothing to say.
type Groups interface {
	// Route returns nil where this node coordinates the group, else the refusal.
	Route(group string) error
	Heartbeat(req protocol.HeartbeatRequest, done func(*protocol.HeartbeatReply, error))
	Commit(ctx context.Context, req protocol.CommitRequest, done func(*protocol.CommitReply, error))
	FetchOffsets(ctx context.Context, req protocol.FetchOffsetsRequest) (*protocol.FetchOffsetsReply, error)
	DeleteOffsets(ctx context.Context, req protocol.DeleteOffsetsRequest) (*protocol.CommitReply, error)
	Describe(ctx context.Context, group string) (*protocol.GroupDescription, error)
	Delete(ctx context.Context, req protocol.GroupRequest) error
	Seek(ctx context.Context, req protocol.GroupSeekRequest) (*protocol.CommitReply, error)
	List() *protocol.GroupListReply
	All() []*protocol.GroupDescription
	Release()
}

// Coordinators is what the handler uses of the coordinator shards as Raft groups.
type Coordinators interface {
	// Nodes returns the nodes that hold the replicas, of every shard the same.
	Nodes() []uint64
	// Status returns this node's replica of a shard; false where it has none.
	Status(shard uint64) (RaftState, bool)
	// Transfer hands a shard that this node leads to another node and returns when
	// it has moved.
	Transfer(ctx context.Context, shard, to uint64) error
}

// groupCall is one request to a group on its way.
type groupCall struct {
	ctx   context.Context
	group string // of the subject
	body  []byte
	done  func(reply any, err error)
}

// groupVerb answers one group request through call.done, exactly once.
type groupVerb func(h *Handler, call groupCall)

// groupVerbs returns the verbs that do not wait on their worker, and those that do.
func groupVerbs() (quick, waiting map[string]groupVerb) {
	quick = map[string]groupVerb{
		protocol.VerbGroupHeartbeat: func(h *Handler, call groupCall) {
			req, err := decodeGroup[protocol.HeartbeatRequest](call)
			if err != nil {
				call.done(nil, err)
				return
			}
			h.options.Groups.Heartbeat(req, func(r *protocol.HeartbeatReply, err error) { call.done(r, err) })
		},
		protocol.VerbGroupCommit: (*Handler).groupCommit,
	}
	waiting = map[string]groupVerb{
		protocol.VerbGroupFetchOffsets: groupControl(func(h *Handler, ctx context.Context, req protocol.FetchOffsetsRequest) (*protocol.FetchOffsetsReply, error) {
			return h.options.Groups.FetchOffsets(ctx, req)
		}),
		protocol.VerbGroupDeleteOffsets: groupControl(func(h *Handler, ctx context.Context, req protocol.DeleteOffsetsRequest) (*protocol.CommitReply, error) {
			return h.options.Groups.DeleteOffsets(ctx, req)
		}),
		protocol.VerbGroupDelete: groupControl(func(h *Handler, ctx context.Context, req protocol.GroupRequest) (*protocol.Empty, error) {
			return &protocol.Empty{}, h.options.Groups.Delete(ctx, req)
		}),
		protocol.VerbGroupDescribe: groupControl((*Handler).groupDescribe),
		protocol.VerbGroupSeek:     groupControl((*Handler).groupSeek),
	}
	return quick, waiting
}

// groupControl makes a group verb of a function that waits for its outcome.
func groupControl[Req, Reply any](fn func(*Handler, context.Context, Req) (Reply, error)) groupVerb {
	return func(h *Handler, call groupCall) {
		req, err := decodeGroup[Req](call)
		if err != nil {
			call.done(nil, err)
			return
		}
		reply, err := fn(h, call.ctx, req)
		call.done(reply, err)
	}
}

// decodeGroup reads a group request. The group of the subject counts: it is what
// permissions are given for.
func decodeGroup[Req any](call groupCall) (req Req, err error) {
	if len(bytes.TrimSpace(call.body)) > 0 {
		if err := json.Unmarshal(call.body, &req); err != nil {
			return req, badJSON(err)
		}
	}
	version, group := groupFields(&req)
	if *version != 0 && *version != protocol.ControlVersion {
		return req, errcode.New(errcode.UnsupportedVersion, "the request has version %d; this node speaks version %d", *version, protocol.ControlVersion)
	}
	*group = call.group
	return req, nil
}

// groupFields returns what all group requests have.
func groupFields(req any) (version *int, group *string) {
	switch r := req.(type) {
	case *protocol.HeartbeatRequest:
		return &r.Version, &r.Group
	case *protocol.CommitRequest:
		return &r.Version, &r.Group
	case *protocol.FetchOffsetsRequest:
		return &r.Version, &r.Group
	case *protocol.DeleteOffsetsRequest:
		return &r.Version, &r.Group
	case *protocol.GroupSeekRequest:
		return &r.Version, &r.Group
	case *protocol.GroupRequest:
		return &r.Version, &r.Group
	}
	panic("handler: a group request of an unknown kind")
}

// Group answers a group verb with an encoded envelope, or with nil where this
// node has nothing to say about the group. It never blocks; done is called
// exactly once, for a heartbeat perhaps seconds later.
func (h *Handler) Group(verb, group string, body []byte, done func(reply []byte)) {
	if errors.Is(h.options.Groups.Route(group), groups.ErrElsewhere) {
		// Before anything else: every node hears every request, and what one of
		// them could refuse is not for it to refuse.
		done(nil)
		return
	}
	start := h.options.Clock()
	answer := func(reply any, err error) {
		if errors.Is(err, groups.ErrElsewhere) {
			done(nil)
			return
		}
		h.metrics.Request("group_"+verb, errcode.Of(err), h.options.Clock().Sub(start))
		done(envelope(reply, err))
	}
	quick, waiting := groupVerbs()
	run, pool := quick[verb], h.groupPool
	if run == nil {
		run, pool = waiting[verb], h.groupReadPool
	}
	if run == nil {
		known := slices.Sorted(slices.Values([]string{
			protocol.VerbGroupHeartbeat, protocol.VerbGroupCommit, protocol.VerbGroupFetchOffsets, protocol.VerbGroupDeleteOffsets,
			protocol.VerbGroupDelete, protocol.VerbGroupDescribe, protocol.VerbGroupSeek,
		}))
		verb = "unknown"
		answer(nil, errcode.New(errcode.InvalidRequest, "there is no group verb %q; the verbs are %s", clip(verb), strings.Join(known, ", ")))
		return
	}
	if !h.gate.enter() {
		answer(nil, errShuttingDown())
		return
	}
	ctx, cancel := context.WithTimeout(h.ctx, h.options.ControlTimeout)
	call := groupCall{ctx: ctx, group: group, body: body, done: func(reply any, err error) {
		cancel()
		answer(reply, err)
		h.gate.exit()
	}}
	if !pool.submit(func() { run(h, call) }) {
		call.done(nil, throttled("node %d has too many group requests waiting; retry", h.options.NodeID))
	}
}

// groupDescribe describes a group that this node coordinates, with its lag.
func (h *Handler) groupDescribe(ctx context.Context, req protocol.GroupRequest) (*protocol.GroupDescription, error) {
	d, err := h.options.Groups.Describe(ctx, req.Group)
	if err != nil {
		return nil, err
	}
	h.fillLag(ctx, []*protocol.GroupDescription{d})
	return d, nil
}

// groupSeek moves a group's offsets, after it has checked that they lie within
// their logs.
func (h *Handler) groupSeek(ctx context.Context, req protocol.GroupSeekRequest) (*protocol.CommitReply, error) {
	reply, err := h.options.Groups.Seek(ctx, protocol.GroupSeekRequest{Group: req.Group, Offsets: req.Offsets, DryRun: true})
	if err != nil {
		return nil, err
	}
	fine := h.checkOffsets(ctx, req.Offsets, reply)
	if req.DryRun || !fine {
		return reply, nil
	}
	return h.options.Groups.Seek(ctx, req)
}

// groupList gathers the groups of all coordinators.
func (h *Handler) groupList(ctx context.Context, _ protocol.Empty) (*protocol.GroupListReply, error) {
	image := h.options.Metadata.Image()
	ctx, cancel := context.WithTimeout(ctx, h.options.PeerTimeout)
	defer cancel()
	nodes := nodeIDs(image)
	out := &protocol.GroupListReply{Groups: []protocol.GroupSummary{}}
	served := map[uint64]bool{}
	var mu sync.Mutex // guards out and served
	inParallel(len(nodes), len(nodes), func(i int) {
		var reply protocol.GroupListReply
		if err := h.call(ctx, nodes[i], protocol.VerbNodeGroups, protocol.Empty{}, &reply); err != nil {
			h.options.Logger.Debug("node did not tell its groups", "node", nodes[i], "err", err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		out.Groups = append(out.Groups, reply.Groups...)
		for _, s := range reply.Shards {
			served[s] = true
		}
	})
	for i := range image.GroupShards {
		if shard := groups.FirstShard + uint64(i); !served[shard] {
			out.Unreachable = append(out.Unreachable, shard)
		}
	}
	// While a shard moves two nodes may tell of a group: one row of it is enough.
	slices.SortFunc(out.Groups, func(a, b protocol.GroupSummary) int { return strings.Compare(a.Group, b.Group) })
	out.Groups = slices.CompactFunc(out.Groups, func(a, b protocol.GroupSummary) bool { return a.Group == b.Group })
	return out, nil
}

// uncoordinated names the coordinator shards that nobody serves, as raft show
// calls them.
func (h *Handler) uncoordinated(ctx context.Context) []string {
	out := []string{}
	if h.options.Metadata.Image().GroupShards == 0 {
		return out
	}
	list, err := h.groupList(ctx, protocol.Empty{})
	if err != nil {
		return append(out, err.Error())
	}
	for _, shard := range list.Unreachable {
		out = append(out, protocol.GroupShardName(int(shard-groups.FirstShard)))
	}
	return out
}

func (h *Handler) nodeGroups(context.Context, protocol.Empty) (*protocol.GroupListReply, error) {
	return h.options.Groups.List(), nil
}

// describeTimeout bounds the wait for a group's coordinator to describe it, which
// itself asks nodes for their logs.
const describeTimeout = 4 * time.Second

// groupDescribed has a group's coordinator describe it. Every node is asked: only
// the coordinator knows the group.
func (h *Handler) groupDescribed(ctx context.Context, req protocol.GroupRequest) (*protocol.GroupDescription, error) {
	if err := protocol.ValidateGroupName(req.Group); err != nil {
		return nil, err
	}
	nodes := nodeIDs(h.options.Metadata.Image())
	replies, errs := make([]protocol.GroupDescription, len(nodes)), make([]error, len(nodes))
	ctx, answered := context.WithTimeout(ctx, describeTimeout)
	defer answered()
	inParallel(len(nodes), len(nodes), func(i int) {
		if errs[i] = h.call(ctx, nodes[i], protocol.VerbNodeGroup, req, &replies[i]); errs[i] == nil {
			answered() // the others need not be waited for
		}
	})
	for i, err := range errs {
		if err == nil {
			return &replies[i], nil
		}
		if errcode.Of(err) == errcode.GroupIDNotFound {
			return nil, err
		}
	}
	return nil, errcode.New(errcode.CoordinatorNotAvailable, "group %q has no coordinator at the moment; try again", req.Group)
}

// noGroups stands for a cluster without consumer groups.
type noGroups struct{}

func errNoGroups() error {
	return errcode.New(errcode.NotImplemented, "there are no consumer groups here; read partitions with consumer.NewReader")
}

func (noGroups) Route(string) error { return errNoGroups() }

func (noGroups) Heartbeat(_ protocol.HeartbeatRequest, done func(*protocol.HeartbeatReply, error)) {
	done(nil, errNoGroups())
}

func (noGroups) Commit(_ context.Context, _ protocol.CommitRequest, done func(*protocol.CommitReply, error)) {
	done(nil, errNoGroups())
}

func (noGroups) FetchOffsets(context.Context, protocol.FetchOffsetsRequest) (*protocol.FetchOffsetsReply, error) {
	return nil, errNoGroups()
}

func (noGroups) DeleteOffsets(context.Context, protocol.DeleteOffsetsRequest) (*protocol.CommitReply, error) {
	return nil, errNoGroups()
}

func (noGroups) Describe(context.Context, string) (*protocol.GroupDescription, error) {
	return nil, errNoGroups()
}
func (noGroups) Delete(context.Context, protocol.GroupRequest) error { return errNoGroups() }
func (noGroups) Seek(context.Context, protocol.GroupSeekRequest) (*protocol.CommitReply, error) {
	return nil, errNoGroups()
}

func (noGroups) List() *protocol.GroupListReply {
	return &protocol.GroupListReply{Groups: []protocol.GroupSummary{}}
}
func (noGroups) All() []*protocol.GroupDescription              { return nil }
func (noGroups) Release()                                       {}
func (noGroups) Nodes() []uint64                                { return nil }
func (noGroups) Status(uint64) (RaftState, bool)                { return RaftState{}, false }
func (noGroups) Transfer(context.Context, uint64, uint64) error { return errNoGroups() }

// knownPartition returns the shard of a partition and the nodes that hold it.
func knownPartition(image *metadata.Image, topicID uint64, number int32) (*metadata.Partition, bool) {
	t, ok := image.TopicByID(topicID)
	if !ok || number < 0 || int(number) >= len(t.Partitions) {
		return nil, false
	}
	return &t.Partitions[number], true
}
