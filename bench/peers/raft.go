package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"

	"github.com/google/uuid"

	"logbroker/bench/load"
)

// Values of the option hop.
const (
	hopNone = "none" // a node makes the proposals' bytes itself: the ceiling
	hopTCP  = "tcp"  // the producer sends them, as it does to a broker
)

const (
	raftNodes = 3
	// proposalsInFlightBytes is what is under way in the whole cluster.
	proposalsInFlightBytes = 16 << 20
)

// raftSystem is the ceiling: internal/raftnode as three processes, one Raft
// shard per partition, with a state machine that appends every command to a
// file and does nothing else. A producer packs records to proposals as large as
// the batches of the Spec.
//
// Options: hop=none|tcp, proposal=BYTES.
type raftSystem struct {
	spec     load.Spec
	hop      string
	proposal int
	nodes    []raftNodeConfig
	servers  processGroup
}

// Name implements load.System.
func (s *raftSystem) Name() string { return "raw_dragonboat" }

// Processes implements load.System.
func (s *raftSystem) Processes() []int { return s.servers.pids() }

// Durability implements load.Durable.
func (s *raftSystem) Durability() string {
	return "a majority of the replicas has the proposal synced to disk in its Raft log, and the leader has applied it"
}

// Settings implements load.System.
func (s *raftSystem) Settings() map[string]string {
	return map[string]string{
		"library":       "dragonboat " + moduleVersion("github.com/lni/dragonboat/v4") + " through internal/raftnode",
		"servers":       strconv.Itoa(raftNodes),
		"replicas":      strconv.Itoa(raftNodes),
		"shards":        fmt.Sprintf("%d, leaders spread over the servers", s.shards()),
		"state machine": "appends every command to a file, pushed to the disk every 4 MiB, no fsync of it, no answer",
		"proposal":      fmt.Sprintf("%d bytes; less only while none of the producer's is in flight", s.proposal),
		"in flight":     fmt.Sprintf("%d proposals per shard and producer", s.window()),
		"hop":           s.hop + " (none: a node makes the bytes of a proposal itself, tcp: the producer sends them)",
		"rtt":           raftRTT.String(),
		"log":           "tan, 4 MiB write buffers; no snapshots",
	}
}

func (s *raftSystem) shards() int { return s.spec.Topics * s.spec.Partitions }

// window is the number of proposals in flight per shard and producer.
func (s *raftSystem) window() int {
	return max(proposalsInFlightBytes/s.proposal/s.shards()/s.spec.Producers, 2)
}

// Start implements load.System.
func (s *raftSystem) Start(ctx context.Context, spec load.Spec) error {
	s.spec, s.hop = spec, option(spec, "hop", hopNone)
	if s.hop != hopNone && s.hop != hopTCP {
		return fmt.Errorf("option hop=%s: use %s or %s", s.hop, hopNone, hopTCP)
	}
	if spec.Replicas != raftNodes {
		return fmt.Errorf("%d replicas: raw dragonboat is run with %d", spec.Replicas, raftNodes)
	}
	var err error
	s.proposal, err = strconv.Atoi(option(spec, "proposal", strconv.Itoa(spec.BatchBytes)))
	if err != nil || s.proposal < 1 || s.proposal > 1<<20 {
		return errors.New("option proposal: use a number of bytes of at most 1 MiB")
	}
	if err := s.configure(); err != nil {
		return err
	}
	for _, n := range s.nodes {
		file := n.Dir + ".json"
		raw, err := json.Marshal(n)
		if err == nil {
			err = os.WriteFile(file, raw, 0o600)
		}
		if err != nil {
			return fmt.Errorf("writing the configuration of a node: %w", err)
		}
		if err := s.servers.start("raft-node", "-c", file); err != nil {
			return err
		}
	}
	return s.awaitReady(ctx)
}

// configure chooses the nodes' addresses and identities.
func (s *raftSystem) configure() error {
	addresses, err := freeAddresses(2 * raftNodes)
	if err != nil {
		return err
	}
	members := make([]raftMember, raftNodes)
	for i := range members {
		members[i] = raftMember{ID: uint64(i + 1), Address: addresses[i], Incarnation: uuid.NewString()}
	}
	for i, m := range members {
		s.nodes = append(s.nodes, raftNodeConfig{
			ID: m.ID, Members: members, Shards: s.shards(), Listen: addresses[raftNodes+i],
			Dir: filepath.Join(s.spec.Dir, fmt.Sprintf("n%d", m.ID)), Local: s.hop == hopNone,
			MaxBytes: s.proposal + s.spec.RecordSize*2,
		})
	}
	return nil
}

// awaitReady waits until every node leads its shards.
func (s *raftSystem) awaitReady(ctx context.Context) error {
	return eventually(ctx, func() error {
		if err := s.servers.failed(); err != nil {
			return err
		}
		for _, n := range s.nodes {
			if _, err := os.Stat(n.readyFile()); err != nil {
				return fmt.Errorf("node %d does not lead its shards: %w", n.ID, err)
			}
		}
		return nil
	})
}

// Stop implements load.System.
func (s *raftSystem) Stop() error { return s.servers.stop() }

// NewReceiver implements load.System: there is nothing to read.
func (s *raftSystem) NewReceiver(context.Context, int, bool) (load.Receiver, error) {
	return nil, errors.New("raw dragonboat is for producing only: leave phases consume and e2e out")
}

// moduleVersion is the version of a module that this binary was built with.
func moduleVersion(path string) string {
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range build.Deps {
			if dep.Path == path {
				return dep.Version
			}
		}
	}
	return "of an unknown version"
}
