package partitions

import (
	"context"
	"testing"

	"logbroker/internal/errcode"
)

func TestReadReturnsWhatWasAppendedBelowTheHighWatermark(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	for i := range 10 {
		if a := appended(r.Partition, numbered(1, 0, int32(2*i), 2)); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	got, err := r.Read([]byte("head"), 7, 1<<20)
	if err != nil || got.HighWatermark != 20 || got.LogStart != 0 || string(got.Data[:4]) != "head" {
		t.Fatalf("%+v, %v", got, err)
	}
	batches := batchesIn(t, got.Data[4:])
	if first := batches[0].BaseOffset(); first != 6 {
		t.Fatalf("begins at %d, want the batch that holds 7", first)
	}
	for i, b := range batches {
		if b.BaseOffset() != int64(6+2*i) || b.PartitionLeaderEpoch() != 1 || b.CheckCRC() != nil {
			t.Fatalf("batch %d: offset %d, epoch %d, %v", i, b.BaseOffset(), b.PartitionLeaderEpoch(), b.CheckCRC())
		}
	}
	if got, err = r.Read(nil, 20, 1<<20); err != nil || len(got.Data) != 0 {
		t.Fatalf("at the end: %d bytes, %v", len(got.Data), err)
	}
}

func TestOnlyAConfirmedLeaderCallsAnOffsetAboveItsEndOutOfRange(t *testing.T) {
	r := newRig(t, nil)
	above := func() errcode.Code { _, err := r.Read(nil, 5, 100); return errcode.Of(err) }
	if c := above(); c != errcode.OffsetNotAvailable {
		t.Errorf("no leader: %v", c)
	}
	r.follow(4, 2)
	if c := above(); c != errcode.OffsetNotAvailable {
		t.Errorf("follower: %v", c)
	}
	r.leadIn(5)
	if c := above(); c != errcode.OffsetOutOfRange {
		t.Errorf("leader: %v", c)
	}
	r.raft.setReadIndex(errNoQuorum)
	if c := above(); c != errcode.OffsetNotAvailable {
		t.Errorf("leader without a majority: %v", c)
	}
}

func TestBelowTheLogStartIsOutOfRangeOnEveryReplica(t *testing.T) {
	r := newRig(t, nil)
	r.leadIn(5)
	for i := range 10 {
		if a := appended(r.Partition, numbered(1, 0, int32(i), 1)); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	ctx := context.Background()
	if start, err := r.Trim(ctx, 4); err != nil || start != 4 || r.Earliest() != 4 {
		t.Fatalf("trim: %d, %v", start, err)
	}
	if start, err := r.Trim(ctx, 2); err != nil || start != 4 {
		t.Fatalf("a lower trim: %d, %v", start, err)
	}
	if _, err := r.Trim(ctx, 11); errcode.Of(err) != errcode.OffsetOutOfRange {
		t.Fatalf("trim above the end: %v", err)
	}
	r.follow(6, 2)
	if _, err := r.Read(nil, 3, 100); errcode.Of(err) != errcode.OffsetOutOfRange {
		t.Fatalf("read below the log start: %v", err)
	}
	if _, err := r.Read(nil, 4, 100); err != nil {
		t.Fatalf("read at the log start: %v", err)
	}
	if _, err := r.Trim(ctx, 5); errcode.Of(err) != errcode.NotLeaderOrFollower {
		t.Fatalf("a follower trims: %v", err)
	}
}

func TestLatestAndTimestampsNeedAConfirmedLeader(t *testing.T) {
	r := newRig(t, nil)
	ctx := context.Background()
	if _, err := r.Latest(ctx); errcode.Of(err) != errcode.NotEnoughReplicas {
		t.Errorf("no leader: %v", err)
	}
	r.leadIn(5)
	for i := range 10 {
		if a := appended(r.Partition, numbered(1, 0, int32(i), 1)); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	if end, err := r.Latest(ctx); err != nil || end != 10 {
		t.Errorf("latest %d, %v", end, err)
	}
	const base = 1_600_000_000_000
	if offset, ts, err := r.OffsetForTimestamp(ctx, base+4); err != nil || offset != 4 || ts != base+4 {
		t.Errorf("by time: %d, %d, %v", offset, ts, err)
	}
	if offset, ts, err := r.OffsetForTimestamp(ctx, base+10); err != nil || offset != -1 || ts != -1 {
		t.Errorf("after the last: %d, %d, %v", offset, ts, err)
	}
	r.raft.setReadIndex(errNoQuorum)
	if _, err := r.Latest(ctx); errcode.Of(err) != errcode.NotEnoughReplicas {
		t.Errorf("no majority: %v", err)
	}
	if _, _, err := r.OffsetForTimestamp(ctx, base); errcode.Of(err) != errcode.NotEnoughReplicas {
		t.Errorf("by time without a majority: %v", err)
	}
}
