package raftnode

import (
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/lni/dragonboat/v4/logger"
	"github.com/lni/dragonboat/v4/raftio"
)

func TestLeaderQueueKeepsTheLatestPerShardAndNeverBlocks(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var mu sync.Mutex
	got := make(map[uint64][]uint64)
	q := newLeaderQueue(func(e LeaderEvent) {
		once.Do(func() { close(entered); <-proceed })
		mu.Lock()
		defer mu.Unlock()
		got[e.Shard] = append(got[e.Shard], e.Term)
	})
	q.put(LeaderEvent{Shard: 1, Term: 1})
	<-entered // the callback blocks; everything below must not
	for term := uint64(2); term <= 10_000; term++ {
		q.put(LeaderEvent{Shard: 1 + term%3, Term: term})
	}
	close(proceed)
	eventually(t, "delivery", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got[1]) == 2 && len(got[2]) == 1 && len(got[3]) == 1
	})
	q.close()
	for shard, terms := range got {
		if last := terms[len(terms)-1]; last < 9_998 {
			t.Errorf("shard %d: last event is of term %d", shard, last)
		}
	}
}

func TestLeaderQueueCloseWaitsForTheCallbackAndDropsTheRest(t *testing.T) {
	calls := 0
	var q *leaderQueue
	entered := make(chan struct{})
	q = newLeaderQueue(func(LeaderEvent) {
		calls++
		close(entered)
		for {
			q.mu.Lock()
			closed := q.closed
			q.mu.Unlock()
			if closed {
				return
			}
			waitTick()
		}
	})
	q.put(LeaderEvent{Shard: 1})
	<-entered
	q.put(LeaderEvent{Shard: 2})
	q.close()
	if calls != 1 {
		t.Fatalf("%d calls, want 1", calls)
	}
}

func TestDragonboatLogsGoToSlogAndPanicfPanics(t *testing.T) {
	var out lockedBuilder
	routeDragonboatLogs(slog.New(slog.NewTextHandler(&out, nil)), slog.LevelWarn)
	defer routeDragonboatLogs(testLogger(), slog.LevelDebug)
	l := logger.GetLogger("testpackage")
	l.SetLevel(logger.DEBUG)
	l.Infof("not %s", "this")
	l.Warningf("nor %s", "this")
	l.Errorf("but %s", "that")
	func() {
		defer func() {
			if r := recover(); r == nil || !strings.Contains(r.(string), "end of 7") {
				t.Errorf("Panicf: recovered %v", r)
			}
		}()
		l.Panicf("end of %d", 7)
	}()
	text := out.String()
	if strings.Contains(text, "this") || !strings.Contains(text, "but that") ||
		!strings.Contains(text, "package=testpackage") || !strings.Contains(text, "end of 7") {
		t.Errorf("log:\n%s", text)
	}
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestRegistryFollowsAnAddressAndKeepsTheFirstPlace(t *testing.T) {
	address, known := "a:1", true
	made, err := registryFactory{resolve: func(string) (string, bool) { return address, known }}.Create("", 4, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := made.(*registry)
	if _, _, err := r.Resolve(1, 2); err == nil {
		t.Fatal("an unknown replica was resolved")
	}
	r.Add(1, 2, testIncarnation(2))
	r.Add(1, 2, testIncarnation(3))
	if v, _ := r.targets.Load(idOf(1, 2)); v.(*target).incarnation != testIncarnation(2) {
		t.Fatal("a replica moved to another incarnation")
	}
	_, first, err := r.Resolve(1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _, _ = r.Resolve(1, 2) }); n > 1 {
		t.Errorf("%v allocations per Resolve", n)
	}
	address = "b:1"
	if got, key, _ := r.Resolve(1, 2); got != "b:1" || key == first {
		t.Fatalf("after the move: %s, key %s", got, key)
	}
	known = false
	if _, _, err := r.Resolve(1, 2); err == nil {
		t.Fatal("a node without an address was resolved")
	}
	r.Add(2, 2, testIncarnation(2))
	r.Remove(2, 2)
	r.RemoveShard(1)
	r.targets.Range(func(k, _ any) bool { t.Errorf("%v is left", k); return true })
}

func TestAddressChangeIsPickedUp(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.found(testShard)
	moved := c.followers(leader)[0]
	moved.node.Close()
	if err := moved.endpoint.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := Listen(EndpointOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	moved.endpoint = e
	c.mu.Lock()
	c.addresses[moved.incarnation] = e.Addr()
	c.mu.Unlock()
	c.open(moved)
	c.start(moved, Shard{ID: testShard})
	c.must(testShard, "x")
	c.settled(testShard, 1)
}

func idOf(shard, replica uint64) raftio.NodeInfo {
	return raftio.NodeInfo{ShardID: shard, ReplicaID: replica}
}
