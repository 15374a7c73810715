package partitions

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/partitions/commitlog"
)

// TestAReplicaBehindTheRaftLogFetchesOnlyWhatItMissed takes a replica away until
// the others have dropped the Raft log that it would need.
func TestAReplicaBehindTheRaftLogFetchesOnlyWhatItMissed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, func(o *Options) { o.SnapshotBytes = 20_000 })
	retry := time.NewTicker(2 * time.Millisecond)
	defer retry.Stop()
	m := &ackedProducer{id: 1, window: 8}
	m.send(200, c.serving, retry.C)
	c.settled()
	away := c.anotherNode(c.leader())
	had, _ := away.host.Get(shardForTest)
	before := had.Status().SizeBytes
	c.down(away)
	m.send(2000, c.serving, retry.C)
	c.restart(away)
	c.identical()
	back, _ := away.host.Get(shardForTest)
	m.check(t, readAll(t, back))
	fetched, missed := away.host.transfers.taken.Load(), back.Status().SizeBytes-before
	if fetched == 0 {
		t.Fatal("nothing was fetched: the Raft log was still there")
	}
	if fetched > missed+missed/10 {
		t.Errorf("%d bytes were fetched, %d were missed of %d", fetched, missed, back.Status().SizeBytes)
	}
	t.Logf("fetched %d bytes, missed %d of %d", fetched, missed, back.Status().SizeBytes)
}

// TestASourceThatDiesWhileItIsFetchedFromIsSurvived stops the node that gives, in
// the middle: the rest comes from the other one.
func TestASourceThatDiesWhileItIsFetchedFromIsSurvived(t *testing.T) {
	t.Parallel()
	var slow atomic.Bool
	c := newCluster(t, 3, func(o *Options) {
		o.SnapshotBytes = 20_000
		if slow.Load() {
			o.CatchUpBytesPerSecond = 150_000
		}
	})
	retry := time.NewTicker(2 * time.Millisecond)
	defer retry.Stop()
	m := &ackedProducer{id: 1, window: 8}
	m.send(8, c.serving, retry.C)
	away := c.anotherNode(c.leader())
	c.down(away)
	m.send(2000, c.serving, retry.C)
	slow.Store(true)
	c.restart(away)
	given := func() *node {
		for _, n := range c.nodes {
			if n.host != nil && n.host.transfers.given.Load() > 0 {
				return n
			}
		}
		return nil
	}
	until(t, "some of it was given", func() bool { return given() != nil })
	source := given()
	until(t, "some of it has come", func() bool { return away.host.transfers.taken.Load() > 10_000 })
	until(t, "the progress is shown", func() bool {
		p, _ := away.host.Get(shardForTest)
		s := p.Status()
		return s.FetchedBytes > 0 && s.FetchBytes > s.FetchedBytes
	})
	before := away.host.transfers.taken.Load()
	c.down(source)
	c.identical()
	back, _ := away.host.Get(shardForTest)
	m.check(t, readAll(t, back))
	if size := back.Status().SizeBytes; before >= size/2 {
		t.Errorf("%d of %d bytes had come when the source died: too late to prove anything", before, size)
	}
}

// TestALeaseKeepsWhatIsTrimmed: what a manifest lists can be had while its lease
// lasts, and is gone by name afterwards.
func TestALeaseKeepsWhatIsTrimmed(t *testing.T) {
	c := newCluster(t, 1, nil)
	retry := time.NewTicker(time.Millisecond)
	defer retry.Stop()
	m := &ackedProducer{id: 1, window: 8}
	m.send(200, c.serving, retry.C)
	p := c.leader()
	ask := func(r streamRequest) (status uint64, data []byte) {
		t.Helper()
		r.Version, r.Shard = streamVersion, shardForTest
		request, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := c.nodes[0].host.ServeStream(t.Context(), request, &out); err != nil {
			t.Fatal(err)
		}
		return binary.BigEndian.Uint64(out.Bytes()), out.Bytes()[8:]
	}
	_, answer := ask(streamRequest{Manifest: true})
	lease := binary.BigEndian.Uint64(answer)
	manifest, err := commitlog.DecodeManifest(answer[16:])
	if err != nil {
		t.Fatal(err)
	}
	first := manifest.Segments()[0]
	if _, err := p.Trim(t.Context(), 200); err != nil {
		t.Fatal(err)
	}
	if err := p.raft.Snapshot(t.Context(), shardForTest, 1); err != nil { // which unlinks what is trimmed
		t.Fatal(err)
	}
	want := streamRequest{Lease: lease, Base: first.Base, To: first.Bytes}
	if status, data := ask(want); status != streamGiven || int64(len(data)) != 16+first.Bytes {
		t.Fatalf("with a lease: %d, %d bytes", status, len(data))
	}
	p.leases.endAll()
	if status, data := ask(want); status != streamGone || binary.BigEndian.Uint64(data[8:]) != 200 {
		t.Fatalf("without a lease: %d, log start %d", status, binary.BigEndian.Uint64(data[8:]))
	}
}
