package nemesis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"logbroker/internal/proof/testbed"
)

const (
	// killsMax is how often somebody is killed while a replica is replaced, killWithin
	// how long after the one before: a replacement takes a second or two.
	killsMax   = 3
	killWithin = 2 * time.Second
	// metadataShard and coordinatorShard live in memory, with a Raft log only.
	metadataShard, coordinatorShard = 1, 2
	// memoryOf is in how many losses one is of a shard in memory.
	memoryOf = 4
)

// lose takes one replica from a node that does not run, by damage to its files, and
// starts it. The replica must never run again: the others replace it by one under a
// new id. Meanwhile that node or the leader is killed at random moments. In the end
// every replica must be whole, and before the next fault: at most one node may have
// lost something at a time.
func (r *run) lose(ctx context.Context, s step, n *testbed.Node) (faults int, err error) {
	if err := r.settled(ctx); err != nil {
		return 0, err
	}
	rng := rand.New(rand.NewPCG(s.pick, 1))
	partition := rng.Int32N(partitions)
	shard, err := r.cluster.Shard(ctx, topic, partition)
	if err != nil {
		return 0, err
	}
	if rng.IntN(memoryOf) == 0 {
		shard = metadataShard + rng.Uint64N(coordinatorShard-metadataShard+1)
	}
	n.Kill()
	before, err := newestReplica(n, shard)
	if err == nil {
		err = r.damage(rng, n, shard, before)
	}
	if err != nil {
		return 0, err
	}
	if err := n.Start(); err != nil {
		return 1, err
	}
	kills, err := r.killAbout(ctx, rng, n, partition)
	if err != nil {
		return 1 + kills, err
	}
	whole, cancel := context.WithTimeout(ctx, settleMax)
	defer cancel()
	if err := r.cluster.AwaitHealthy(whole); err != nil {
		return 1 + kills, fmt.Errorf("replica %d of shard %d on node %d: %w", before, shard, n.ID, err)
	}
	after, err := newestReplica(n, shard)
	if after != before {
		r.replaced++
		r.cluster.Say("  replica %d of shard %d on node %d was replaced by %d", before, shard, n.ID, after)
	}
	return 1 + kills, err
}

// damage makes a replica useless: its Raft log is gone or has a wrong bit, or, of a
// partition, its newest segment has one.
func (r *run) damage(rng *rand.Rand, n *testbed.Node, shard, replica uint64) error {
	raft := replicaLogs(n, fmt.Sprintf("%d-%d", shard, replica))
	switch what := rng.IntN(3); {
	case what == 0:
		r.cluster.Say("  node %d loses the Raft log of replica %d of shard %d", n.ID, replica, shard)
		found, err := filepath.Glob(raft)
		if err == nil && len(found) == 1 {
			err = os.RemoveAll(found[0])
		}
		return err
	case what == 1 && shard > coordinatorShard:
		return r.flip(rng, n, filepath.Join(n.DataDir(), "partitions", fmt.Sprintf("%d-%d", shard, replica), "log-*", "*.log"))
	}
	return r.flip(rng, n, filepath.Join(raft, "*.log"))
}

// flip makes a bit of the last file wrong that a pattern names.
func (r *run) flip(rng *rand.Rand, n *testbed.Node, pattern string) error {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		return fmt.Errorf("%s: there is nothing to damage (%w)", pattern, err)
	}
	path := files[len(files)-1]
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(data) == 0 {
		r.cluster.Say("  node %d: %s is empty, nothing is damaged", n.ID, path)
		return nil
	}
	at := rng.IntN(len(data))
	data[at] ^= 0x10
	name, err := filepath.Rel(n.DataDir(), path)
	r.cluster.Say("  node %d: byte %d of %d of %s is damaged", n.ID, at, len(data), name)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// killAbout kills the node whose replica is replaced, or the one that leads the
// partition, again and again, and starts it at once.
func (r *run) killAbout(ctx context.Context, rng *rand.Rand, n *testbed.Node, partition int32) (kills int, err error) {
	for range 1 + rng.IntN(killsMax) {
		if err := testbed.Wait(ctx, time.Duration(rng.Int64N(int64(killWithin)))); err != nil {
			return kills, err
		}
		victim := n
		if rng.IntN(2) == 0 {
			if leaders, err := r.cluster.Leaders(ctx, topic); err == nil && leaders[partition] > 0 {
				victim = r.cluster.Nodes[leaders[partition]-1]
			}
		}
		victim.Kill()
		kills++
		r.cluster.Say("  node %d was killed meanwhile", victim.ID)
		if err := victim.Start(); err != nil {
			return kills, err
		}
		if rng.IntN(2) == 0 {
			continue // the next one may come while this one starts
		}
		if err := r.cluster.Heal(ctx); err != nil {
			return kills, err
		}
	}
	return kills, r.cluster.Heal(ctx)
}

// replicaLogs is a pattern for the Raft logs of a node's replicas.
func replicaLogs(n *testbed.Node, replica string) string {
	return filepath.Join(n.DataDir(), "raft", "node", "*", "tandb", "node-"+replica)
}

// newestReplica is the highest replica id that a node has a Raft log of: ids are
// never reused.
func newestReplica(n *testbed.Node, shard uint64) (newest uint64, err error) {
	found, err := filepath.Glob(replicaLogs(n, strconv.FormatUint(shard, 10)+"-*"))
	for _, dir := range found {
		id, err := strconv.ParseUint(dir[strings.LastIndex(dir, "-")+1:], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", dir, err)
		}
		newest = max(newest, id)
	}
	if err == nil && newest == 0 {
		err = fmt.Errorf("node %d has no Raft log of shard %d", n.ID, shard)
	}
	return newest, err
}
