package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"logbroker/internal/storage"
)

// wire connects the foundings of a test by address, in one process.
type wire struct {
	mu    sync.Mutex
	nodes map[string]*founding
	// cut holds addresses that do not answer.
	cut map[string]bool
	// crashAfter, when not nil, is asked after each served request whether the
	// asking side dies before it sees the answer.
	crashAfter func(to string, request []byte) bool
}

type wireEnd struct {
	wire *wire
	addr string
}

func (e wireEnd) Addr() string { return e.addr }

func (e wireEnd) Handshake(ctx context.Context, addr string, request []byte) ([]byte, error) {
	e.wire.mu.Lock()
	peer, cut, crash := e.wire.nodes[addr], e.wire.cut[addr], e.wire.crashAfter
	e.wire.mu.Unlock()
	if peer == nil || cut {
		return nil, errors.New("connection refused")
	}
	reply, err := peer.serve(ctx, request)
	if crash != nil && crash(addr, request) {
		return nil, fmt.Errorf("%w: crashed", errRefused)
	}
	return reply, err
}

func newWire() *wire { return &wire{nodes: map[string]*founding{}, cut: map[string]bool{}} }

// node puts a node on the wire. dir "" makes a fresh directory.
func (w *wire) node(t *testing.T, id uint64, addr, dir string, addrs ...string) *founding {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	raft := filepath.Join(dir, "raft")
	if err := os.MkdirAll(raft, 0o755); err != nil {
		t.Fatal(err)
	}
	ids, err := openIdentity(directories{fs: storage.OS(), data: dir, raft: raft}, "test", id)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(addrs)
	f := &founding{transport: wireEnd{w, addr}, logger: slog.New(slog.DiscardHandler), addrs: addrs, ids: ids, addresses: newAddresses(nil)}
	w.mu.Lock()
	w.nodes[addr] = f
	w.mu.Unlock()
	return f
}

func runAll(t *testing.T, nodes ...*founding) []error {
	t.Helper()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = n.run(t.Context(), nil) })
	}
	wg.Wait()
	return errs
}

func requireOneCluster(t *testing.T, nodes ...*founding) {
	t.Helper()
	first := nodes[0].identity()
	for _, n := range nodes {
		id := n.identity()
		if id.ClusterID == "" || id.ClusterID != first.ClusterID || !slices.Equal(id.Founders, first.Founders) {
			t.Fatalf("node %d: cluster %q founders %v; node %d: cluster %q founders %v",
				id.NodeID, id.ClusterID, id.Founders, first.NodeID, first.ClusterID, first.Founders)
		}
	}
}

func TestThreeEmptyNodesFoundOneClusterInAnyOrder(t *testing.T) {
	w := newWire()
	a, b, c := w.node(t, 3, "a", "", "a", "b", "c"), w.node(t, 1, "b", "", "c", "b", "a"), w.node(t, 2, "c", "", "a", "b", "c")
	for i, err := range runAll(t, a, b, c) {
		if err != nil {
			t.Fatalf("node at %d: %v", i, err)
		}
	}
	requireOneCluster(t, a, b, c)
	if len(a.identity().Founders) != 3 || a.identity().Founders[0].NodeID != 1 {
		t.Fatalf("founders: %v", a.identity().Founders)
	}
}

func TestNothingIsFoundedWhileAFounderIsMissing(t *testing.T) {
	w := newWire()
	a := w.node(t, 1, "a", "", "a", "b", "c")
	w.node(t, 2, "b", "", "a", "b", "c")
	reason, err := a.tryFound(t.Context())
	if err != nil || !strings.Contains(reason, "founder c is not reachable") || a.identity().ClusterID != "" {
		t.Fatalf("reason %q, error %v, cluster %q", reason, err, a.identity().ClusterID)
	}
}

// The deciding node dies after each single found request it sends; whatever was
// written by then, the next start ends in one cluster.
func TestFoundingSurvivesACrashOfTheFounderAtEachStep(t *testing.T) {
	for crashAt := 1; crashAt <= 2; crashAt++ {
		w := newWire()
		dirA := t.TempDir()
		addrs := []string{"a", "b", "c"}
		a, b, c := w.node(t, 1, "a", dirA, addrs...), w.node(t, 2, "b", "", addrs...), w.node(t, 3, "c", "", addrs...)
		found := 0
		w.crashAfter = func(_ string, request []byte) bool {
			if strings.Contains(string(request), `"kind":"found"`) {
				found++
			}
			return found == crashAt
		}
		if _, err := a.tryFound(t.Context()); err == nil && a.identity().ClusterID != "" {
			t.Fatal("the founder did not crash")
		}
		w.crashAfter = nil
		a = w.node(t, 1, "a", dirA, addrs...)
		for _, err := range runAll(t, a, b, c) {
			if err != nil {
				t.Fatalf("crash at %d: %v", crashAt, err)
			}
		}
		requireOneCluster(t, a, b, c)
	}
}

func TestANodeWhoseDirectoriesWereLostIsRefused(t *testing.T) {
	w := newWire()
	addrs := []string{"a", "b", "c"}
	a, b, c := w.node(t, 1, "a", "", addrs...), w.node(t, 2, "b", "", addrs...), w.node(t, 3, "c", "", addrs...)
	runAll(t, a, b, c)
	wiped := w.node(t, 2, "b", "", addrs...)
	err := wiped.run(t.Context(), nil)
	if !errors.Is(err, errRefused) || !strings.Contains(err.Error(), "must not vote again") {
		t.Fatalf("wiped node got: %v", err)
	}
	if wiped.identity().ClusterID != "" {
		t.Fatal("the wiped node joined")
	}
}

// Node 3 is given the directory of another cluster's node 3. It must notice, and
// the others must not take its mistake for theirs when they start again.
func TestADirectoryOfAnotherClusterIsNoticedByItsOwnNodeOnly(t *testing.T) {
	w := newWire()
	addrs, dirs := []string{"a", "b", "c"}, []string{t.TempDir(), t.TempDir(), t.TempDir()}
	runAll(t, w.node(t, 1, "a", dirs[0], addrs...), w.node(t, 2, "b", dirs[1], addrs...), w.node(t, 3, "c", dirs[2], addrs...))
	elsewhere, foreign := newWire(), t.TempDir()
	runAll(t, elsewhere.node(t, 3, "x", foreign, "x"))

	a, b, c := w.node(t, 1, "a", dirs[0], addrs...), w.node(t, 2, "b", dirs[1], addrs...), w.node(t, 3, "c", foreign, addrs...)
	if err := c.announce(t.Context(), nil); !errors.Is(err, errRefused) || !strings.Contains(err.Error(), foreign) {
		t.Errorf("node 3 with another cluster's directory got: %v", err)
	}
	for _, n := range []*founding{a, b} {
		if err := n.announce(t.Context(), nil); err != nil {
			t.Errorf("node %d got: %v", n.identity().NodeID, err)
		}
	}
	w.cut["b"] = true // only the wrong neighbour answers: no verdict
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := a.announce(ctx, nil); err != nil {
		t.Errorf("node 1 with node 2 away got: %v", err)
	}
}

func TestMisconfiguredFoundersAreRefusedWithTheReason(t *testing.T) {
	tests := []struct {
		name  string
		start func(t *testing.T, w *wire) *founding
		want  string
	}{
		{"duplicate node id", func(t *testing.T, w *wire) *founding {
			w.node(t, 1, "b", "", "a", "b")
			return w.node(t, 1, "a", "", "a", "b")
		}, "node 1 is also at b"},
		{"two others with one id", func(t *testing.T, w *wire) *founding {
			w.node(t, 2, "b", "", "a", "b", "c")
			w.node(t, 2, "c", "", "a", "b", "c")
			return w.node(t, 1, "a", "", "a", "b", "c")
		}, "both say they are node 2"},
		{"own address not listed", func(t *testing.T, w *wire) *founding {
			w.node(t, 2, "b", "", "b", "c")
			w.node(t, 3, "c", "", "b", "c")
			return w.node(t, 1, "a", "", "b", "c")
		}, "is not among cluster.founders"},
		{"other founders listed", func(t *testing.T, w *wire) *founding {
			w.node(t, 2, "b", "", "b", "c")
			return w.node(t, 1, "a", "", "a", "b")
		}, "must be the same set"},
		{"other cluster name", func(t *testing.T, w *wire) *founding {
			w.node(t, 2, "b", "", "a", "b").ids.id.ClusterName = "other"
			return w.node(t, 1, "a", "", "a", "b")
		}, `this is cluster "other", not "test"`},
		{"founded without this node", func(t *testing.T, w *wire) *founding {
			if err := w.node(t, 2, "b", "").run(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			return w.node(t, 1, "a", "", "a", "b")
		}, "join it through cluster.seeds"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.start(t, newWire()).run(t.Context(), nil)
			if !errors.Is(err, errRefused) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("error %v, want one line with %q", err, test.want)
			}
		})
	}
}

func TestALaterNodeJoinsThroughASeed(t *testing.T) {
	w := newWire()
	seed := w.node(t, 1, "a", "")
	if err := seed.run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	admitted := []member{}
	seed.serveImage(func(uint64) (string, bool) { return "", false }, func(_ context.Context, m member) error {
		admitted = append(admitted, m)
		return nil
	}, nil)
	later := w.node(t, 4, "d", "")
	if err := later.run(t.Context(), []string{"nobody", "a"}); err != nil {
		t.Fatal(err)
	}
	id := later.identity()
	if !id.Joined || id.ClusterID != seed.identity().ClusterID || len(admitted) != 1 || admitted[0].NodeID != 4 {
		t.Fatalf("identity %+v, admitted %v", id, admitted)
	}
	if err := w.node(t, 4, "e", "").run(t.Context(), []string{"a"}); err != nil {
		t.Fatalf("unknown to the image, so it is taken in: %v", err)
	}
	seed.serveImage(func(uint64) (string, bool) { return id.Incarnation, true }, seed.admit, nil)
	if err := w.node(t, 4, "f", "").run(t.Context(), []string{"a"}); !errors.Is(err, errRefused) {
		t.Fatalf("node id 4 was taken twice: %v", err)
	}
}
