package broker

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"logbroker/broker/metadata"
	"logbroker/partitions"
)

// fakeHost notes what replicas does to it.
type fakeHost struct {
	replicaHost
	left      []partitions.ReplicaKey
	discarded []partitions.ReplicaKey
	failures  int // Discards that fail first
}

func (h *fakeHost) Leftovers() ([]partitions.ReplicaKey, error) { return slices.Clone(h.left), nil }

func (h *fakeHost) Discard(k partitions.ReplicaKey) error {
	if h.failures > 0 {
		h.failures--
		return errors.New("disk is busy")
	}
	h.discarded = append(h.discarded, k)
	h.left = slices.DeleteFunc(h.left, func(x partitions.ReplicaKey) bool { return x == k })
	return nil
}

type fakeStore struct{ replicaStore }

func TestReplicasOfTopicsDeletedWhileDownAreRemoved(t *testing.T) {
	image := &metadata.Image{Index: 9, NextShard: 1005}
	deleted, unheardOf := partitions.ReplicaKey{Shard: 1004, Replica: 2}, partitions.ReplicaKey{Shard: 1005, Replica: 1}
	host := &fakeHost{left: []partitions.ReplicaKey{deleted, unheardOf}, failures: 1}
	r := newReplicas(host, fakeStore{}, 1, slog.New(slog.DiscardHandler))
	if r.follow(context.Background(), image) {
		t.Error("a failed removal is not tried again")
	}
	if !r.follow(context.Background(), image) || !slices.Equal(host.discarded, []partitions.ReplicaKey{deleted}) {
		t.Errorf("discarded %v; want %v and not %v, which the metadata never gave out", host.discarded, deleted, unheardOf)
	}
	host.left = append(host.left, deleted)
	if !r.follow(context.Background(), image) || len(host.discarded) != 1 {
		t.Error("looked for leftovers again after the start")
	}
}
