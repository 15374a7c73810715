package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"logbroker/broker"
	"logbroker/broker/groups"
	"logbroker/broker/metadata"
	"logbroker/config"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// said counts what the nodes have logged.
type said struct {
	mu    sync.Mutex // guards what follows
	times map[string]int
	heard func(node uint64, message string) // may be nil
}

func (s *said) see(node uint64, r slog.Record) {
	s.mu.Lock()
	heard := s.heard
	if s.times == nil {
		s.times = map[string]int{}
	}
	s.times[fmt.Sprint(node, " ", r.Message)]++
	s.mu.Unlock()
	if heard != nil {
		heard(node, r.Message)
	}
}

func (s *said) count(node uint64, message string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.times[fmt.Sprint(node, " ", message)]
}

const (
	lostLine     = "this node gets a new replica from the others: its log is lost"
	completeLine = "the replica in the place of a lost one is complete and votes"
	removedLine  = "removed a replica whose log its node has lost"
)

// tanDirs returns where a stopped node's log and bootstrap record of a shard lie.
func (c *Cluster) tanDirs(id, shard, replica uint64) (log, bootstrap string) {
	c.tb.Helper()
	found, err := filepath.Glob(filepath.Join(c.DataDir(id), "raft", "node", "*", "tandb"))
	if err != nil || len(found) != 1 {
		c.tb.Fatalf("Raft logs in %v, %v", found, err)
	}
	name := fmt.Sprintf("%d-%d", shard, replica)
	return filepath.Join(found[0], "node-"+name), filepath.Join(found[0], "bootstrap", "BOOTSTRAP-"+name)
}

// loseLog takes a stopped node's log of a shard away, cutLog all of its entries.
func (c *Cluster) loseLog(id, shard, replica uint64) {
	c.tb.Helper()
	log, bootstrap := c.tanDirs(id, shard, replica)
	for _, name := range []string{log, bootstrap} {
		if _, err := os.Stat(name); err != nil {
			c.tb.Fatal(err)
		}
		if err := os.RemoveAll(name); err != nil {
			c.tb.Fatal(err)
		}
	}
}

func (c *Cluster) cutLog(id, shard, replica uint64) {
	c.tb.Helper()
	log, _ := c.tanDirs(id, shard, replica)
	files, err := filepath.Glob(filepath.Join(log, "*.log"))
	if err != nil || len(files) == 0 {
		c.tb.Fatalf("no log in %s: %v", log, err)
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			c.tb.Fatal(err)
		}
		if err := os.Truncate(name, info.Size()/2); err != nil {
			c.tb.Fatal(err)
		}
	}
}

// changesMetadata makes one change of the metadata, which needs a majority of its
// replicas.
func (c *Cluster) changesMetadata(topic string, retention int) {
	c.tb.Helper()
	c.WaitFor("the metadata takes a change", func() bool {
		_, err := c.Client().Admin().AlterTopic(within(c.tb, waitTimeout), topic, map[string]string{"retention_bytes": strconv.Itoa(retention << 30)})
		return err == nil
	})
}

func TestANodeThatLostItsMetadataLogGetsANewReplicaThatVotes(t *testing.T) {
	t.Parallel()
	log := &said{}
	c := Start(t, Options{Configure: quietLeaders, Log: log.see})
	c.CreateTopic("before", 1, 3, nil)
	for i, harm := range []struct {
		name string
		lose func(id, shard, replica uint64)
	}{{"lost", c.loseLog}, {"cut", c.cutLog}} {
		t.Log(harm.name)
		c.Stop(2)
		harm.lose(2, metadata.ShardID, 2+uint64(i)<<32)
		c.Restart(2)
		c.WaitFor("the new replica votes", func() bool { return log.count(2, completeLine) == 1+i })
		c.WaitHealthy()
		// With one of the others gone there is no majority without the new one.
		gone := uint64(1 + 2*i)
		c.Stop(gone)
		c.changesMetadata("before", 1+i)
		c.Restart(gone)
	}
	c.Stop(2) // and with nothing lost nothing is replaced
	c.Restart(2)
	c.WaitHealthy()
	c.Stop(1)
	c.changesMetadata("before", 9)
	c.Restart(1)
	if n := log.count(2, lostLine); n != 2 {
		t.Errorf("%d losses were noticed, not 2", n)
	}
	if err := c.Join(4, 1, nil); err != nil { // a later node, without a vote
		t.Fatal(err)
	}
	c.Stop(4)
	c.loseLog(4, metadata.ShardID, 4)
	c.Restart(4)
	c.WaitHealthy()
	if n := log.count(4, lostLine); n != 1 {
		t.Errorf("%d losses were noticed on the later node, not 1", n)
	}
	kept, err := filepath.Glob(filepath.Join(c.DataDir(2), "raft", "quarantine", "*", "tandb", "node-*"))
	if err != nil || len(kept) == 0 {
		t.Errorf("what was left of the cut log is kept nowhere: %v", err)
	}
}

func TestANodeThatLostGroupLogsGetsNewReplicasAndOffsetsStay(t *testing.T) {
	t.Parallel()
	log := &said{}
	c := Start(t, Options{Configure: func(f *config.Config) {
		longSessions(f)
		f.Leaders.Interval = balanceInterval
	}, Log: log.see})
	c.CreateTopic("jobs", 1, 3, nil)
	c.fill("jobs", 1, 10)
	members := []*groupMember{}
	for i := range groupShards {
		m := c.member(groupOn(i), "m", "jobs")
		settle(c, 1, m)
		members = append(members, m)
	}
	commit := func(offset int64) {
		for _, m := range members {
			c.WaitFor("a commit of "+m.group, func() bool { return m.commit(offset, part{"jobs", 0})[0] == errcode.None })
		}
	}
	commit(3)
	c.Stop(2)
	for i := range uint64(groupShards) {
		[]func(id, shard, replica uint64){c.loseLog, c.cutLog}[i%2](2, groups.FirstShard+i, 2)
	}
	c.Restart(2)
	c.WaitFor("the new replicas vote", func() bool { return log.count(2, completeLine) == groupShards })
	c.Stop(1)
	for _, m := range members {
		c.WaitFor("the offsets of "+m.group, func() bool {
			reply, err := groupCall[protocol.FetchOffsetsReply](c, protocol.VerbGroupFetchOffsets, m.group, protocol.FetchOffsetsRequest{Group: m.group})
			return err == nil && len(reply.Offsets) == 1 && reply.Offsets[0].Offset == 3
		})
	}
	commit(7)
	c.Restart(1)
	// The new replicas may lead, and are told by their node.
	c.WaitFor("node 2 leads its share of them", func() bool { led, even := c.coordinators(); return even && led[2] > 0 })
	for _, m := range members {
		if got := c.committed(m.group)[part{"jobs", 0}]; got != 7 {
			t.Errorf("%s has committed %d, not 7", m.group, got)
		}
	}
}

// startOf starts a stopped node until ctx ends, and returns its error.
func (c *Cluster) startOf(ctx context.Context, id uint64) error {
	c.tb.Helper()
	c.mu.Lock()
	f := c.nodes[id].config
	c.mu.Unlock()
	b, err := broker.New(c.brokerOptions(id, f))
	if err != nil {
		return err
	}
	err = b.Start(ctx)
	if stopErr := b.Kill(); stopErr != nil {
		c.tb.Errorf("stop of node %d: %v", id, stopErr)
	}
	return err
}

// A node whose whole Raft directory is gone waits for a majority, and goes on with
// its replacement wherever it was ended before.
func TestANodeWithoutItsRaftDirectoryWaitsForAMajorityAndGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	log := &said{}
	c := Start(t, Options{Configure: quietLeaders, Log: log.see})
	c.CreateTopic("before", 1, 3, nil)
	c.Stop(2, 3)
	if err := os.RemoveAll(filepath.Join(c.DataDir(2), "raft")); err != nil {
		t.Fatal(err)
	}
	why := ""
	for limit := time.Second; limit < waitTimeout && !strings.Contains(why, "waits for a majority"); limit *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		why = fmt.Sprint(c.startOf(ctx, 2))
		cancel()
	}
	if !strings.Contains(why, "the Raft log of the metadata is gone") || !strings.Contains(why, "waits for a majority") {
		t.Fatalf("without a majority: %q", why)
	}
	if n := log.count(2, lostLine); n > 0 {
		t.Fatal("a replica was retired without a majority")
	}
	c.Restart(3)

	// It ends when the others have removed its old replica, and again when it has
	// got a new one.
	for _, at := range []string{removedLine, "added a replica without a vote in the place of a lost one"} {
		ctx, cancel := context.WithCancel(t.Context())
		log.mu.Lock()
		log.heard = func(_ uint64, message string) {
			if message == at {
				cancel()
			}
		}
		log.mu.Unlock()
		if err := c.startOf(ctx, 2); err == nil && at == removedLine {
			t.Error("node 2 started and was to end")
		}
		cancel()
	}
	log.mu.Lock()
	log.heard = nil
	log.mu.Unlock()
	c.Restart(2)
	c.WaitFor("the new replica of the metadata votes", func() bool { return log.count(2, completeLine) >= 1 })
	c.Stop(1)
	c.changesMetadata("before", 5)
	c.Restart(1)
}
