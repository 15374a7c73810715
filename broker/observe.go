package broker

import (
	"context"
	"encoding/json"
	"io"

	"logbroker/broker/handler"
	"logbroker/internal/errcode"
	"logbroker/internal/metrics"
	"logbroker/internal/protocol"
)

// control answers an admin verb for the HTTP API.
func (b *Broker) control(ctx context.Context, verb string, body []byte) []byte {
	h := b.handlers.Load()
	if h == nil {
		return refusal(errcode.New(errcode.LeaderNotAvailable, "the node is not ready: %s; see /readyz", b.reasons()[0]))
	}
	done := make(chan []byte, 1)
	h.Control(handler.PlaneAdmin, verb, body, func(reply []byte) { done <- reply })
	select {
	case reply := <-done:
		return reply
	case <-ctx.Done():
		return refusal(errcode.New(errcode.RequestTimedOut, "%s did not end in time", verb))
	}
}

func refusal(err error) []byte {
	raw, encodeErr := json.Marshal(protocol.Envelope[*protocol.Empty]{Version: protocol.ControlVersion, Error: protocol.NewControlError(err)})
	if encodeErr != nil {
		panic(encodeErr) // two plain structs
	}
	return raw
}

// writeRaftMetrics writes the Raft library's own metrics, once there are any.
func (b *Broker) writeRaftMetrics(w io.Writer) {
	if b.hostUp.Load() != nil {
		b.raft.WriteMetrics(w)
	}
}

// nodeMetrics is the node's state for a scrape. Before the node serves, most of
// it is not there yet.
func (b *Broker) nodeMetrics() metrics.Node {
	n := metrics.Node{Partitions: map[string]int{}, DiskFreeBytes: b.disk.freeBytes.Load(), DiskLow: b.disk.low.Load()}
	if b.handlers.Load() == nil {
		return n
	}
	for _, p := range b.host.All() {
		s := p.Status()
		n.Partitions[partitionState(s.State, s.Role)]++
		n.SegmentBytes += s.SizeBytes
		n.MissingBytes += s.FetchBytes - s.FetchedBytes
		n.Replicas = append(n.Replicas, metrics.Replica{
			Topic: s.Topic, Partition: s.Partition, LogStart: s.LogStart, HighWatermark: s.HighWatermark,
			SizeBytes: s.SizeBytes, HasLeader: s.LeaderNode != 0,
		})
	}
	sync := b.raft.SyncStats()
	n.SyncBounds, n.SyncCounts, n.SyncCount, n.SyncSum = sync.Bounds, sync.Buckets, sync.Count, sync.Sum
	n.RaftLogBytes = b.raft.LogBytes()
	n.ClientConnections = b.nats.ClientConnections()
	return n
}

// groupMetrics are the groups that this node coordinates. It asks the partitions'
// leaders for their log ends.
func (b *Broker) groupMetrics() []metrics.Group {
	h := b.handlers.Load()
	if h == nil {
		return nil
	}
	out := []metrics.Group{}
	for _, g := range h.CoordinatedGroups(context.Background()) {
		row := metrics.Group{Name: g.Group, Members: len(g.Members)}
		for _, t := range g.Topics {
			if !t.Incomplete {
				row.Lag = append(row.Lag, metrics.TopicLag{Topic: t.Topic, Lag: t.Lag})
			}
		}
		out = append(out, row)
	}
	return out
}

// partitionState is the label of a replica: its role while it runs.
func partitionState(state, role string) string {
	if state == "running" {
		return role
	}
	return state
}
