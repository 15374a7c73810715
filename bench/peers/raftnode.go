package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"
	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/raftnode"
)

// raftRTT is dragonboat's tick: elections take a second, heartbeats 50 ms.
const (
	raftRTT          = 10 * time.Millisecond
	raftElectionRTT  = 100
	raftHeartbeatRTT = 5
	shardBase        = 1001 // id of the first shard
)

// raftMember is one node as the others see it.
type raftMember struct {
	ID          uint64 `json:"id"` // node id and replica id
	Address     string `json:"address"`
	Incarnation string `json:"incarnation"`
}

// raftNodeConfig is what a raft-node process needs to know.
type raftNodeConfig struct {
	ID      uint64       `json:"id"`
	Members []raftMember `json:"members"`
	Shards  int          `json:"shards"`
	Listen  string       `json:"listen"` // for producers
	Dir     string       `json:"dir"`
	// Local nodes make the bytes of a proposal themselves; else they come with it.
	Local bool `json:"local"`
	// MaxBytes is the size of the largest proposal.
	MaxBytes int `json:"max_bytes"`
}

// readyFile is written when every shard has the leader that it should.
func (c raftNodeConfig) readyFile() string { return filepath.Clean(c.Dir) + ".ready" }

// leads says which node should lead shard number i, counted from 0.
func (c raftNodeConfig) leads(i int) uint64 { return c.Members[i%len(c.Members)].ID }

func raftNodeCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "raft-node -c FILE", Short: "One node of raw dragonboat", Hidden: true, Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("reading the node's configuration: %w", err)
			}
			var c raftNodeConfig
			if err := json.Unmarshal(raw, &c); err != nil {
				return fmt.Errorf("reading %s: %w", file, err)
			}
			return runRaftNode(cmd.Context(), c)
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file")
	return cmd
}

// runRaftNode runs one node until ctx ends.
func runRaftNode(ctx context.Context, c raftNodeConfig) error {
	node, err := openRaftNode(c)
	if err != nil {
		return err
	}
	defer node.Close()
	for i := range c.Shards {
		if err := startShard(node, c, i); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listening for producers: %w", err)
	}
	server := newRaftServer(node, c)
	go server.accept(listener) // ends when the listener is closed
	defer func() { _ = listener.Close() }()
	if err := eventually(ctx, func() error { return takeLeads(node, c) }); err != nil {
		return err
	}
	if err := os.WriteFile(c.readyFile(), []byte("ready\n"), 0o600); err != nil {
		return fmt.Errorf("writing the ready file: %w", err)
	}
	<-ctx.Done()
	return nil
}

func openRaftNode(c raftNodeConfig) (*raftnode.Node, error) {
	self := c.Members[c.ID-1]
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	endpoint, err := raftnode.Listen(raftnode.EndpointOptions{Listen: self.Address, Logger: logger})
	if err != nil {
		return nil, err
	}
	addresses := make(map[string]string, len(c.Members))
	for _, m := range c.Members {
		addresses[m.Incarnation] = m.Address
	}
	return raftnode.Open(endpoint, raftnode.Options{
		Dir: filepath.Join(c.Dir, "raft"), NodeID: c.ID, Incarnation: self.Incarnation,
		RTT: raftRTT, ElectionRTT: raftElectionRTT, HeartbeatRTT: raftHeartbeatRTT,
		Resolve: func(incarnation string) (string, bool) {
			address, ok := addresses[incarnation]
			return address, ok
		},
		Logger: logger, RaftLevel: slog.LevelError,
	})
}

func startShard(node *raftnode.Node, c raftNodeConfig, i int) error {
	file, err := os.Create(filepath.Join(c.Dir, fmt.Sprintf("applied-%d", i)))
	if err != nil {
		return fmt.Errorf("making the file of a shard: %w", err)
	}
	members := make(map[uint64]string, len(c.Members))
	for _, m := range c.Members {
		members[m.ID] = m.Incarnation
	}
	return node.StartOnDisk(raftnode.Shard{ID: uint64(shardBase + i), Replica: c.ID, Members: members},
		func(uint64, uint64) statemachine.IOnDiskStateMachine { return newAppendMachine(file) })
}

// errNotLeading says that a shard has another leader than it should.
var errNotLeading = errors.New("a shard is not led by its node yet")

// takeLeads returns nil when every shard has the leader it should have, and
// hands over the shards that this node leads and should not.
func takeLeads(node *raftnode.Node, c raftNodeConfig) error {
	var err error
	for i := range c.Shards {
		shard, wanted := uint64(shardBase+i), c.leads(i)
		leader, _, known := node.Leader(shard)
		if known && leader == wanted {
			continue
		}
		err = errNotLeading
		if known && leader == c.ID {
			_ = node.Transfer(shard, wanted) // asked again at the next call
		}
	}
	return err
}
