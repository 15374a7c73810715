package e2e

import (
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"logbroker/internal/client"
	"logbroker/internal/protocol"
)

const (
	loadPartitions = 6
	// resumeMax is how long a partition may go without an ack after its
	// leader's node was killed.
	resumeMax = 3 * time.Second
	// handOverMax is the same where the node is asked to stop.
	handOverMax = 1500 * time.Millisecond
	// spreadMax is how long leadership may be uneven after a node came back.
	spreadMax = 30 * time.Second
)

func TestKillOfTheBusiestLeaderLosesNothingAndAcksResume(t *testing.T) {
	t.Parallel()
	t.Run("start", func(t *testing.T) {
		t.Parallel()
		c := startCluster(t, "")
		killWhileProducing(t, killing{
			urls: c.urls(),
			kill: func(id uint64) { c.nodes[id-1].kill() },
			restart: func(id uint64) {
				c.nodes[id-1].start(t)
				c.nodes[id-1].awaitReady(t)
			},
		})
		c.stop(t)
		wantIdentical(t, c.dirs())
	})
	t.Run("dev --processes", func(t *testing.T) {
		t.Parallel()
		d := startDev(t, "--processes", "--any-port", "--data-dir", filepath.Join(t.TempDir(), "data"))
		var back *node
		killWhileProducing(t, killing{
			urls: d.told.Servers,
			kill: func(id uint64) {
				if err := syscall.Kill(d.told.Nodes[id-1].PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				await(t, 5*time.Second, "dev says that a node ended", func() (bool, string) {
					return strings.Contains(d.stderr.String(), "node process "+strconv.Itoa(d.told.Nodes[id-1].PID)+" ended"), ""
				})
			},
			restart: func(id uint64) { // dev left the node's configuration beside its directory
				dir := d.told.Nodes[id-1].DataDir
				back = &node{id: int(id), dataDir: dir, file: dir + ".yaml", ready: dir + ".ready.json"}
				back.start(t)
				back.awaitReady(t)
			},
		})
		dirs := []string{}
		for _, n := range d.told.Nodes {
			dirs = append(dirs, n.DataDir)
		}
		back.signal(t, syscall.SIGTERM)
		d.stop(t, syscall.SIGTERM, drainTimeout)
		if code := back.ended(t, drainTimeout); code != 0 {
			t.Errorf("the restarted node exited with %d", code)
		}
		wantIdentical(t, dirs)
	})
}

// killing says how to kill and restart a node of a running cluster.
type killing struct {
	urls    []string
	kill    func(id uint64)
	restart func(id uint64)
}

func killWhileProducing(t *testing.T, k killing) {
	t.Helper()
	admin := dial(t, k.urls...)
	createTopic(t, admin, "events", loadPartitions)
	awaitSpread(t, admin, "events", spreadMax)
	l := startLoad(t, k.urls, "events")
	l.mark()
	l.awaitAcks(t, loadPartitions, 300, 10*time.Second)

	victim := busiest(t, admin, "events")
	l.mark()
	k.kill(victim)
	l.awaitAcks(t, loadPartitions, 1000, 20*time.Second)
	gap, own := l.gap()
	t.Logf("kill -9 of node %d: longest time one partition went without an ack: %s", victim, gap.Round(time.Millisecond))
	if own > resumeMax {
		t.Errorf("acks resumed after %s (%s without what the machine stood still), want at most %s", gap, own, resumeMax)
	}

	l.mark()
	began := l.stalls.Mark()
	k.restart(victim)
	ready := l.stalls.Since(began)
	awaitSpread(t, admin, "events", spreadMax)
	spread := l.stalls.Since(began)
	gap, _ = l.gap()
	t.Logf("node %d ready again after %s, leadership spread after %s; longest time without an ack: %s",
		victim, ready.Round(time.Millisecond), spread.Round(time.Millisecond), gap.Round(time.Millisecond))
	if spread > spreadMax {
		t.Errorf("leadership was spread after %s, want at most %s", spread, spreadMax)
	}
	l.mark()
	l.awaitAcks(t, loadPartitions, 100, 10*time.Second)
	l.finish(t)
	l.verify(t, k.urls, loadPartitions)
	awaitCaughtUp(t, admin, "events")
	t.Logf("%d records acked, all read back", l.count)
}

// busiest returns the node that leads most partitions of topic.
func busiest(t *testing.T, c *client.Client, topic string) uint64 {
	t.Helper()
	d, why := describe(t, c, topic)
	if d == nil {
		t.Fatal(why)
	}
	count, best := leadersOf(d), uint64(1)
	for id := uint64(2); id <= 3; id++ {
		if count[id] > count[best] {
			best = id
		}
	}
	return best
}

// awaitCaughtUp waits until all replicas of topic have applied the same entry.
func awaitCaughtUp(t *testing.T, c *client.Client, topic string) {
	t.Helper()
	for p := range int32(loadPartitions) {
		await(t, 15*time.Second, "every replica has applied all", func() (bool, string) {
			shown, err := c.Admin().ShowRaft(t.Context(), protocol.RaftShowRequest{Topic: topic, Partition: p})
			if err != nil {
				return false, err.Error()
			}
			return sameApplied(shown), describeRaft(shown)
		})
	}
}

func sameApplied(r *protocol.RaftShowReply) bool {
	for _, replica := range r.Replicas {
		if replica.Applied == nil || *replica.Applied != *r.Replicas[0].Applied || *replica.Applied != *replica.Last {
			return false
		}
	}
	return len(r.Replicas) == 3
}

func describeRaft(r *protocol.RaftShowReply) string {
	text := ""
	for _, replica := range r.Replicas {
		text += " node " + strconv.FormatUint(replica.Node, 10)
		if replica.Applied == nil {
			text += " unreachable"
			continue
		}
		text += " applied " + strconv.FormatUint(*replica.Applied, 10) + " last " + strconv.FormatUint(*replica.Last, 10)
	}
	return text
}

// wantIdentical demands of the stopped nodes that all replicas of each
// partition hold the same bytes.
func wantIdentical(t *testing.T, dirs []string) {
	t.Helper()
	got := run(t, 20*time.Second, nil, logbrokerd(), append([]string{"storage", "verify"}, dirs...)...)
	if n := strings.Count(got.stdout, "identical"); got.code != 0 || n != loadPartitions {
		t.Errorf("storage verify: exit code %d, %d of %d partitions identical:\n%s%s", got.code, n, loadPartitions, got.stdout, got.stderr)
	}
}

func TestSIGTERMWhileProducingMovesLeadershipWithoutAGap(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "")
	admin := dial(t, c.urls()...)
	createTopic(t, admin, "events", loadPartitions)
	awaitSpread(t, admin, "events", spreadMax)
	l := startLoad(t, c.urls(), "events")
	l.mark()
	l.awaitAcks(t, loadPartitions, 300, 10*time.Second)

	victim := c.nodes[busiest(t, admin, "events")-1]
	l.mark()
	began := time.Now()
	victim.stop(t, syscall.SIGTERM, drainTimeout)
	took := time.Since(began)
	l.awaitAcks(t, loadPartitions, 1000, 20*time.Second)
	gap, own := l.gap()
	t.Logf("SIGTERM to node %d: exit 0 after %s; longest time one partition went without an ack: %s",
		victim.id, took.Round(time.Millisecond), gap.Round(time.Millisecond))
	if own > handOverMax {
		t.Errorf("a partition went %s without an ack (%s without what the machine stood still), want at most %s", gap, own, handOverMax)
	}
	l.finish(t)
	l.verify(t, c.urls(), loadPartitions)
	victim.start(t)
	victim.awaitReady(t)
	c.stop(t)
	wantIdentical(t, c.dirs())
}
