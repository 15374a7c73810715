package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"logbroker/internal/raftnode"
	"logbroker/internal/storage"
)

// errCrash is where a simulated process ends.
var errCrash = errors.New("crash")

// memoryDisk is what a node with two shards in memory has on its disk, and how
// many more steps its process makes.
type memoryDisk struct {
	ends    map[uint64]uint64 // shard → end of its log, where the Raft log knows it
	marked  bool
	reached map[uint64]uint64
	voted   map[uint64]bool // it has run: what it acknowledged must not be forgotten
	steps   int
}

func (d *memoryDisk) step() error {
	if d.steps--; d.steps < 0 {
		return errCrash
	}
	return nil
}

func (d *memoryDisk) HasReplica(shard, _ uint64) bool { _, known := d.ends[shard]; return known }

func (d *memoryDisk) LogEnd(shard, _ uint64) (uint64, error) { return d.ends[shard], nil }

func (d *memoryDisk) BootstrapInMemory(s raftnode.Shard) error {
	if _, known := d.ends[s.ID]; !known {
		d.ends[s.ID] = 0
	}
	return d.step()
}

// start is one start of the node, with so many steps to its crash.
func (d *memoryDisk) start(steps int) (lost []lostLog, err error) {
	d.steps = steps
	m := &memoryShards{
		shards: []raftnode.Shard{{ID: 2, Replica: 1}, {ID: 3, Replica: 1}}, started: d.marked,
		reached: func(shard uint64) uint64 { return d.reached[shard] },
		mark: func() error {
			if err := d.step(); err != nil {
				return err // before the write is durable
			}
			d.marked = true
			return d.step()
		},
		start: func(s raftnode.Shard) error {
			d.voted[s.ID] = true
			d.ends[s.ID] += 10
			if err := d.step(); err != nil {
				return err
			}
			d.reached[s.ID] = d.ends[s.ID]
			return nil
		},
	}
	return m.run(d)
}

// Wherever the first start ends, the next one goes on; and after that a log that
// had voted and is gone, or is shorter than it was, never votes again.
func TestACrashAnywhereInTheFirstStartLetsNoLostLogVote(t *testing.T) {
	const allSteps = 6
	losses := map[string]func(d *memoryDisk){
		"nothing is lost": func(*memoryDisk) {},
		"a log is lost":   func(d *memoryDisk) { delete(d.ends, 3) },
		"a log is emptied": func(d *memoryDisk) {
			if d.ends[3] > 0 {
				d.ends[3] = 0
			}
		},
	}
	for name, lose := range losses {
		for crashAt := range allSteps + 1 {
			t.Run(fmt.Sprintf("%s after step %d", name, crashAt), func(t *testing.T) {
				d := &memoryDisk{ends: map[uint64]uint64{}, reached: map[uint64]uint64{}, voted: map[uint64]bool{}}
				if lost, err := d.start(crashAt); (err == nil) != (crashAt >= allSteps) || len(lost) > 0 {
					t.Fatalf("the first start with %d steps: %v, %v", crashAt, lost, err)
				}
				voted, length := d.voted[3], d.ends[3]
				_, known := d.ends[3]
				lose(d)
				_, left := d.ends[3]
				lost := voted && d.ends[3] < length && (!left || d.reached[3] > 0)
				delete(d.voted, 3)
				found, err := d.start(100)
				if err != nil || lost && (len(found) != 1 || found[0].shard.ID != 3 || d.voted[3]) {
					t.Fatalf("a log that had voted and was lost: found %v, voted %v, %v", found, d.voted[3], err)
				}
				// What was known and marked and has not voted is lost as well: the mark is
				// all there is to tell.
				if gone := d.marked && known && !left; !lost && !gone && len(found) > 0 {
					t.Fatalf("nothing was forgotten, and yet: %v", found)
				}
			})
		}
	}
}

// replacedDisk is what a node has on its disk of one shard whose log is lost, the
// cluster that it asks, and how many more steps its process makes.
type replacedDisk struct {
	memoryDisk
	r          replacement
	logs       map[uint64]uint64 // replica → end of its log
	ran        []uint64
	voter      uint64 // its replica that the cluster counts as a voter
	newcomer   uint64 // its replica without a vote
	everGiven  []uint64
	noMajority bool
}

func (d *replacedDisk) HasReplica(_, replica uint64) bool { _, ok := d.logs[replica]; return ok }

func (d *replacedDisk) LogEnd(_, replica uint64) (uint64, error) { return d.logs[replica], nil }

func (d *replacedDisk) BootstrapInMemory(s raftnode.Shard) error {
	if _, ok := d.logs[s.Replica]; !ok {
		d.logs[s.Replica] = 0
	}
	return d.step()
}

func (d *replacedDisk) replacement(uint64) (replacement, bool) { return d.r, d.r.Retired > 0 }

func (d *replacedDisk) retire(_, replica uint64) error {
	return d.durably(func() { d.r = replacement{Retired: replica} })
}

func (d *replacedDisk) given(_, replica uint64) error {
	return d.durably(func() { d.r.Replica = replica })
}

func (d *replacedDisk) replacementStarted(uint64) error {
	return d.durably(func() { d.r.Started = true })
}

func (d *replacedDisk) durably(write func()) error {
	if err := d.step(); err != nil {
		return err
	}
	write()
	return d.step()
}

// ask is the cluster's side, as Broker.renew does it.
func (d *replacedDisk) ask(_ context.Context, r replaceRequest) (uint64, error) {
	if d.noMajority {
		return 0, errors.New("no majority")
	}
	if err := d.step(); err != nil || r.Probe {
		return 0, err
	}
	if d.voter <= r.Retired {
		d.voter = 0
	}
	if d.newcomer <= r.Retired {
		id, err := raftnode.NextReplica(1, append(d.everGiven, r.Retired)...)
		if err != nil {
			return 0, err
		}
		d.newcomer, d.everGiven = id, append(d.everGiven, id)
	}
	return d.newcomer, d.step()
}

// start is one start of the node.
func (d *replacedDisk) start(t *testing.T, steps int) error {
	d.steps = steps
	p := &replacer{
		raft: d, ids: d, ask: d.ask, lost: func(raftnode.Shard, error) {}, replaceable: true,
		start: func(s raftnode.Shard) error {
			if !s.NonVoting || s.Members != nil || s.Replica <= d.r.Retired || s.Replica != d.newcomer {
				t.Errorf("started as %+v, retired %d, added %d", s, d.r.Retired, d.newcomer)
			}
			d.ran = append(d.ran, s.Replica)
			d.logs[s.Replica] += 10
			d.r.Reached = d.logs[s.Replica]
			return nil
		},
	}
	s := raftnode.Shard{ID: 1, Replica: 1, Members: map[uint64]string{1: "a"}}
	var why error
	if d.r.Retired == 0 {
		why = errors.New("gone")
	} else {
		s.Replica = d.r.Replica
	}
	return p.run(context.Background(), s, why)
}

// Wherever a replacement ends, the next start goes on with it; the lost replica
// is out of the cluster before its successor runs, and only one successor is given.
// Where that one's log is lost it is replaced in its turn.
func TestACrashAnywhereInAReplacementIsGoneOnWith(t *testing.T) {
	for crashAt := range 20 {
		d := &replacedDisk{logs: map[uint64]uint64{}, voter: 1}
		finished := d.start(t, crashAt) == nil
		if !finished {
			if err := d.start(t, 100); err != nil {
				t.Fatalf("after a crash at step %d: %v", crashAt, err)
			}
		}
		if len(d.everGiven) != 1 || d.voter != 0 || len(d.ran) != 1 || d.ran[0] != d.everGiven[0] {
			t.Fatalf("after a crash at step %d: given %v, ran %v, voter %d", crashAt, d.everGiven, d.ran, d.voter)
		}
		if crashAt == 0 && finished || crashAt == 19 && !finished {
			t.Fatalf("with %d steps finished is %v", crashAt, finished)
		}
		for i, lose := range []func(){func() {}, func() { delete(d.logs, d.r.Replica) }, func() { d.logs[d.r.Replica] = 1 }} {
			lose()
			if err := d.start(t, 100); err != nil {
				t.Fatal(err)
			}
			if want := 1 + i; len(d.everGiven) != want {
				t.Fatalf("%d replicas were given after %d losses", len(d.everGiven), i)
			}
		}
	}
}

// Where no majority answers nothing is retired: the log may come back.
func TestNothingIsRetiredBeforeAMajorityAnswers(t *testing.T) {
	d := &replacedDisk{logs: map[uint64]uint64{}, voter: 1, noMajority: true}
	if err := d.start(t, 100); err == nil || !strings.Contains(err.Error(), "gone") || !strings.Contains(err.Error(), "no majority") {
		t.Fatalf("error %v does not say what is lost and why it waits", err)
	}
	if d.r.Retired != 0 || d.voter != 1 || len(d.ran) > 0 {
		t.Fatalf("%+v", d)
	}
}

// tanDir is where the log of a shard's replica on node 1 lies.
func tanDir(t *testing.T, dir string, shard int) (log, bootstrap string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "raft", "node", "*", "tandb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("Raft logs in %v, %v", found, err)
	}
	return filepath.Join(found[0], fmt.Sprintf("node-%d-1", shard)), filepath.Join(found[0], "bootstrap", fmt.Sprintf("BOOTSTRAP-%d-1", shard))
}

// runUntilRecorded runs a node until it has recorded how far the log of shard
// reaches.
func runUntilRecorded(t *testing.T, dir string, shard uint64) {
	t.Helper()
	b, err := New(Options{Config: oneNode(dir), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	mustAll(t, b.Start(ctx))
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if id := storedIdentity(t, dir); id.reached(shard) > 0 {
			tick.Stop()
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("nothing is recorded of shard %d", shard)
		}
	}
	mustAll(t, b.Stop(ctx))
}

func mustAll(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestALostOrCutLogOfOneShardIsRefusedInOneLine(t *testing.T) {
	for _, shard := range []struct {
		id   int
		name string
	}{{1, "the metadata"}, {3, "consumer group shard 1"}} {
		for _, test := range []struct {
			name string
			harm func(t *testing.T, log, bootstrap string)
			want string
		}{
			{"lost", func(t *testing.T, log, bootstrap string) { mustAll(t, os.RemoveAll(log), os.Remove(bootstrap)) }, "is gone"},
			{"emptied", func(t *testing.T, log, _ string) { mustAll(t, os.RemoveAll(log)) }, "was cut short"},
			{"cut", func(t *testing.T, log, _ string) {
				files, err := filepath.Glob(filepath.Join(log, "*.log"))
				if err != nil || len(files) != 1 {
					t.Fatalf("log files %v, %v", files, err)
				}
				info, err := os.Stat(files[0])
				mustAll(t, err, os.Truncate(files[0], info.Size()/2))
			}, "cannot be read"},
			{"cut at its start", func(t *testing.T, log, _ string) {
				files, err := filepath.Glob(filepath.Join(log, "*.log"))
				if err != nil || len(files) != 1 {
					t.Fatalf("log files %v, %v", files, err)
				}
				index, err := filepath.Glob(filepath.Join(log, "*.index"))
				mustAll(t, err, os.Truncate(files[0], 0))
				for _, name := range index {
					mustAll(t, os.Remove(name)) // else the log store notices by itself
				}
			}, "was cut short"},
		} {
			t.Run(shard.name+" "+test.name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				runUntilRecorded(t, dir, uint64(shard.id))
				log, bootstrap := tanDir(t, dir, shard.id)
				test.harm(t, log, bootstrap)
				err := runOnce(t, dir)
				if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), test.want) ||
					!strings.Contains(err.Error(), "must not vote again") || !strings.Contains(err.Error(), shard.name) {
					t.Fatalf("error %v, want one line with %q and %q", err, shard.name, test.want)
				}
			})
		}
	}
}

func TestACrashBetweenBootstrapAndMarkHeals(t *testing.T) {
	dir := t.TempDir()
	b, err := New(Options{Config: oneNode(dir), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	mustAll(t, b.founding.run(ctx, nil), b.startRaft())
	id := b.founding.identity()
	m := &memoryShards{mark: func() error { return errCrash }, start: func(raftnode.Shard) error { t.Error("started without a mark"); return nil }}
	for shard := range uint64(3) {
		m.shards = append(m.shards, raftnode.Shard{ID: shard + 1, Replica: 1, Members: id.members()})
	}
	if _, err := m.run(b.raft); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	mustAll(t, b.Stop(t.Context()))
	mustAll(t, runOnce(t, dir), runOnce(t, dir))
}

// What is not news is not written: an idle node's disk stays idle.
func TestTheWatermarkIsWrittenOnlyWhenItRises(t *testing.T) {
	data, raft := founded(t)
	s, err := openIdentity(directories{fs: storage.OS(), data: data, raft: raft}, "test", 1)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(data, identityFile)
	written := func(indexes map[uint64]uint64) bool {
		mustAll(t, os.Remove(path), s.reached(indexes))
		_, err := os.Stat(path)
		if err != nil {
			mustAll(t, s.write())
		}
		return err == nil
	}
	if !written(map[uint64]uint64{1: 5, 2: 7}) {
		t.Error("a first index was not written")
	}
	if written(map[uint64]uint64{1: 5, 2: 6}) || written(nil) {
		t.Error("written without news")
	}
	if !written(map[uint64]uint64{1: 5, 3: 1}) {
		t.Error("news of one shard were not written")
	}
	for range 2 {
		if s, err = openIdentity(directories{fs: storage.OS(), data: data, raft: raft}, "test", 1); err != nil {
			t.Fatal(err)
		}
		if s.id.reached(1) != 5 || s.id.reached(2) != 7 || s.id.reached(3) != 1 {
			t.Fatalf("read back %+v", s.id)
		}
	}
}

func TestQuorumIsLostWithTheMajorityAndNotJustAfterAStart(t *testing.T) {
	alive := map[uint64]bool{1: true}
	watch := func(since time.Duration, nodes ...uint64) bool {
		q := &quorumWatch{nodes: func() []uint64 { return nodes }, alive: func(n uint64) bool { return alive[n] }, since: time.Now().Add(-since)}
		return q.lost()
	}
	if watch(quorumGrace/2, 1, 2, 3) {
		t.Error("lost before the others could be heard")
	}
	if !watch(time.Hour, 1, 2, 3) || !watch(time.Hour, 1, 2) {
		t.Error("one of three, or of two, is a majority")
	}
	alive[3] = true
	if watch(time.Hour, 1, 2, 3) || watch(time.Hour, 1) {
		t.Error("two of three, or one of one, are not a majority")
	}
}
