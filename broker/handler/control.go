package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// verb answers one control request: it decodes body, does what is asked and
// returns the encoded envelope's body, or an error.
type verb func(h *Handler, ctx context.Context, body []byte) (any, error)

// verbs returns the verbs of a plane. They are a function, not a variable, so
// that nothing can change them.
func verbs(p Plane) map[string]verb {
	switch p {
	case PlaneMetadata:
		return map[string]verb{
			protocol.VerbMetadata:   control((*Handler).metadata),
			protocol.VerbProducerID: control((*Handler).producerID),
		}
	case PlaneAdmin:
		return map[string]verb{
			protocol.VerbTopicCreate:     control((*Handler).topicCreate),
			protocol.VerbTopicList:       control((*Handler).topicList),
			protocol.VerbTopicDescribe:   control((*Handler).topicDescribe),
			protocol.VerbTopicDelete:     control((*Handler).topicDelete),
			protocol.VerbTopicAlter:      control((*Handler).topicAlter),
			protocol.VerbTopicPartitions: control((*Handler).topicPartitions),
			protocol.VerbTopicTrim:       control((*Handler).topicTrim),
			protocol.VerbClusterInfo:     control((*Handler).clusterInfo),
			protocol.VerbClusterHealth:   control((*Handler).clusterHealth),
			protocol.VerbPartitions:      control((*Handler).partitions),
			protocol.VerbTransferLeader:  control((*Handler).transferLeader),
			protocol.VerbBalanceLeaders:  control((*Handler).balanceLeaders),
			protocol.VerbRaftShow:        control((*Handler).raftShow),
			protocol.VerbGroupList:       control((*Handler).groupList),
			protocol.VerbGroupDescribed:  control((*Handler).groupDescribed),
		}
	}
	return map[string]verb{
		protocol.VerbNodeReplicas: control((*Handler).nodeReplicas),
		protocol.VerbNodeTransfer: control((*Handler).nodeTransfer),
		protocol.VerbNodeTrim:     control((*Handler).nodeTrim),
		protocol.VerbNodeBalance:  control((*Handler).nodeBalance),
		protocol.VerbNodeEnds:     control((*Handler).nodeEnds),
		protocol.VerbNodeGroups:   control((*Handler).nodeGroups),
		protocol.VerbNodeGroup:    control((*Handler).groupDescribe),
	}
}

// control makes a verb of a typed function.
func control[Req, Reply any](fn func(*Handler, context.Context, Req) (Reply, error)) verb {
	return func(h *Handler, ctx context.Context, body []byte) (any, error) {
		var req Req
		if err := decode(body, &req); err != nil {
			return nil, err
		}
		return fn(h, ctx, req)
	}
}

// decode reads a control request. An empty body is an empty request; a missing
// version is this one, so that requests can be typed by hand.
func decode(body []byte, req any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return badJSON(err)
	}
	if head.Version != 0 && head.Version != protocol.ControlVersion {
		return errcode.New(errcode.UnsupportedVersion, "the request has version %d; this node speaks version %d", head.Version, protocol.ControlVersion)
	}
	if err := json.Unmarshal(body, req); err != nil {
		return badJSON(err)
	}
	return nil
}

func badJSON(err error) error {
	return errcode.New(errcode.InvalidRequest, "the request is not the JSON object this verb takes: %v", err)
}

// Control answers a control verb with an encoded envelope. It never blocks;
// done is called exactly once.
func (h *Handler) Control(p Plane, name string, body []byte, done func(reply []byte)) {
	start := h.options.Clock()
	answer := func(api string, reply any, err error) {
		h.metrics.Request(api, errcode.Of(err), h.options.Clock().Sub(start))
		done(envelope(reply, err))
	}
	run, ok := verbs(p)[name]
	if !ok {
		answer("unknown", nil, errcode.New(errcode.InvalidRequest, "there is no verb %q here; the verbs are %s",
			clip(name), strings.Join(slices.Sorted(maps.Keys(verbs(p))), ", ")))
		return
	}
	if !h.gate.enter() {
		answer(name, nil, errShuttingDown())
		return
	}
	ok = h.controlPools[p].submit(func() {
		defer h.gate.exit()
		ctx, cancel := context.WithTimeout(h.ctx, h.options.ControlTimeout)
		defer cancel()
		reply, err := run(h, ctx, body)
		answer(name, reply, err)
	})
	if !ok {
		defer h.gate.exit()
		answer(name, nil, throttled("node %d has too many control requests waiting; retry", h.options.NodeID))
	}
}

// envelope encodes a reply or a refusal.
func envelope(reply any, err error) []byte {
	e := protocol.Envelope[any]{Version: protocol.ControlVersion}
	if err != nil {
		e.Error = protocol.NewControlError(timedOut(err))
	} else {
		e.Body = reply
	}
	out, err := json.Marshal(e)
	if err != nil {
		panic(err) // the replies are structs of this program
	}
	return out
}

// timedOut gives the end of a context its code: what was asked may have
// happened or not.
func timedOut(err error) error {
	if errcode.Of(err) == errcode.UnknownServerError && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		return errcode.New(errcode.RequestTimedOut, "no outcome in time; retry, or look at `logbroker cluster health`")
	}
	return err
}
