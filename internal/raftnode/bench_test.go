package raftnode

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
	"logbroker/internal/raftnode/tanfiles"

	"github.com/lni/dragonboat/v4/statemachine"
)

// appendMachine writes every command to a file, one write per Update.
type appendMachine struct {
	file  *os.File
	buf   []byte
	index uint64
}

func (m *appendMachine) Open(<-chan struct{}) (uint64, error) { return 0, nil }

func (m *appendMachine) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	m.buf = m.buf[:0]
	for i := range entries {
		m.buf = append(m.buf, entries[i].Cmd...)
		m.index = entries[i].Index
	}
	_, err := m.file.Write(m.buf)
	return entries, err
}

func (m *appendMachine) Lookup(any) (any, error)       { return nil, nil }
func (m *appendMachine) Sync() error                   { return m.file.Sync() }
func (m *appendMachine) PrepareSnapshot() (any, error) { return nil, nil }
func (m *appendMachine) Close() error                  { return m.file.Close() }

func (m *appendMachine) SaveSnapshot(any, io.Writer, <-chan struct{}) error   { return nil }
func (m *appendMachine) RecoverFromSnapshot(io.Reader, <-chan struct{}) error { return nil }

const benchShards = 6

// BenchmarkRawPropose is the ceiling of everything built on this package: three
// nodes in one process on loopback TCP and a real disk, six shards with their
// leaders spread over the nodes, a state machine that only appends, many
// proposals in flight. MB/s is of commands, counted once.
func BenchmarkRawPropose(b *testing.B) {
	for _, size := range []int{64 << 10, 1 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) { benchmarkPropose(b, size) })
	}
}

func benchmarkPropose(b *testing.B, size int) {
	c := newCluster(b, 3, func(n *testNode, _ *EndpointOptions) {
		n.options.RTT, n.options.ElectionRTT, n.options.HeartbeatRTT = 10*time.Millisecond, 100, 5
	})
	dir := b.TempDir()
	leaders := make([]*testNode, benchShards)
	for i := range leaders {
		c.foundAppending(b, dir, uint64(1001+i))
	}
	for i := range leaders {
		leaders[i] = c.nodes[i%3]
		c.prefer(b, uint64(1001+i), leaders[i])
	}
	inFlight := 16 << 20 / size / benchShards
	if size < 64<<10 {
		inFlight = 1024
	}
	before := make([]SyncStats, 3)
	for i, n := range c.nodes {
		before[i] = n.node.SyncStats()
	}
	b.SetBytes(int64(size))
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, n := range leaders {
		share := b.N / benchShards
		if i < b.N%benchShards {
			share++
		}
		wg.Go(func() { pump(b, n, uint64(1001+i), share, size, inFlight) })
	}
	wg.Wait()
	b.StopTimer()
	syncs, spent := uint64(0), time.Duration(0)
	for i, n := range c.nodes {
		after := n.node.SyncStats()
		syncs += after.Count - before[i].Count
		spent += after.Sum - before[i].Sum
	}
	b.ReportMetric(float64(syncs)/3/float64(b.N), "fsyncs/op/node")
	b.ReportMetric(float64(spent.Microseconds())/float64(max(syncs, 1)), "µs/fsync")
}

func (c *testCluster) foundAppending(b *testing.B, dir string, shard uint64) {
	for _, n := range c.nodes {
		file, err := os.Create(filepath.Join(dir, fmt.Sprintf("%d-%d", shard, n.id)))
		if err != nil {
			b.Fatal(err)
		}
		err = n.node.StartOnDisk(Shard{ID: shard, Replica: n.id, Members: c.members()},
			func(uint64, uint64) statemachine.IOnDiskStateMachine { return &appendMachine{file: file} })
		if err != nil {
			b.Fatal(err)
		}
	}
}

// prefer moves the shard's leader to n.
func (c *testCluster) prefer(b *testing.B, shard uint64, n *testNode) {
	eventually(b, "preferred leader", func() bool {
		leader := c.leader(shard)
		if leader != n {
			_ = leader.node.Transfer(shard, n.id)
		}
		return leader == n
	})
}

// pump proposes count commands with inFlight of them under way.
func pump(b *testing.B, n *testNode, shard uint64, count, size, inFlight int) {
	queue := make(chan *Proposal, inFlight)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for p := range queue {
			if _, err := p.Wait(); err != nil {
				b.Error(err)
			}
		}
	}()
	cmd := make([]byte, size)
	for range count {
		for {
			p, err := n.node.Propose(shard, cmd, 20*time.Second)
			if err == nil {
				queue <- p
				break
			}
			waitTick() // the queue is full
		}
	}
	close(queue)
	<-done
}

// How fast a replica's log is read before it starts: a full file of 64 KiB entries.
func BenchmarkCheckLog(b *testing.B) {
	dir := b.TempDir()
	s, _ := openStore(b, vfs.Default, dir)
	const total, each = 64 << 20, 64 << 10
	for i := range uint64(total / each) {
		save(b, s, update(1, 1, i, pb.Entry{Index: i + 1, Term: 1, Cmd: make([]byte, each)}))
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(total)
	for b.Loop() {
		log, err := tanfiles.Read(vfs.Default, s.directory(1, 1))
		if err != nil || log.Last != total/each {
			b.Fatal(log, err)
		}
	}
}
