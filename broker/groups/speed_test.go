package groups

import (
	"fmt"
	"testing"

	"github.com/lni/dragonboat/v4/statemachine"
)

// benchCommits is an entry of 500 commits of six partitions each, of ten members
// in each of 50 groups, and a machine that takes it.
func benchCommits(b *testing.B) (*bench, entry) {
	bench := newBench(b)
	e := entry{Epoch: 1, TimeMs: 1_700_000_000_000}
	for g := range 50 {
		group := fmt.Sprintf("group-%02d", g)
		for m := range 10 {
			member := fmt.Sprintf("member-of-twenty-%03d", m)
			bench.must(operation{Kind: opJoin, Group: group, Member: member, Joining: &joining{Topics: []string{"t"}}})
		}
		state := bench.m.groups[group]
		op := operation{Kind: opTarget, Group: group, Revision: state.revision}
		for m := range 10 {
			to := target{Member: fmt.Sprintf("member-of-twenty-%03d", m)}
			for p := range 6 {
				to.Partitions = append(to.Partitions, Partition{7, int32(6*m + p)})
			}
			op.Targets = append(op.Targets, to)
		}
		bench.must(op)
		for _, to := range op.Targets {
			c := operation{Kind: opCommit, Group: group, Member: to.Member, Epoch: state.epoch, Sequence: 1}
			for _, p := range to.Partitions {
				c.Offsets = append(c.Offsets, commit{Partition: p, Offset: 1_000_000})
			}
			e.Ops = append(e.Ops, c)
		}
	}
	return bench, e
}

func BenchmarkUpdate500Commits(b *testing.B) {
	bench, e := benchCommits(b)
	cmd := encode(e)
	b.ReportAllocs()
	for b.Loop() {
		if r, err := bench.m.Update(statemachine.Entry{Cmd: cmd}); err != nil || r.Value != verdictApplied {
			b.Fatal(r.Value, err)
		}
	}
	b.ReportMetric(float64(len(cmd)), "bytes")
}

// BenchmarkEncode500Commits is what the coordinator does for an entry: each
// operation when it is asked for, then all of them.
func BenchmarkEncode500Commits(b *testing.B) {
	_, e := benchCommits(b)
	b.ReportAllocs()
	for b.Loop() {
		encode(e)
	}
}

func BenchmarkDecode500Commits(b *testing.B) {
	_, e := benchCommits(b)
	cmd := encode(e)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := decode(cmd); !ok {
			b.Fatal("not read")
		}
	}
}
