package partitions

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/storage"
	"logbroker/partitions/commitlog"
	"logbroker/partitions/fsm"
)

// How a replica that fell behind its peers' Raft logs gets what it lacks.
//
// The leader sends it a snapshot, which is a manifest only. Before Raft gets it,
// prefetch asks the peers what they have now and fetches what is missing into the
// staging folder: meanwhile the leader holds the replica for one that needs a
// snapshot, and sends it no entries. Then the state machine takes the manifest
// (Fetch), and finds all of it here or staged; what it does not it fetches there
// and then. Where the Raft log was compacted past the manifest meanwhile another
// snapshot comes, and this time less is missing.

const (
	// fetchRetryMin and fetchRetryMax are the waits between two tries at the peers.
	fetchRetryMin = 50 * time.Millisecond
	fetchRetryMax = 2 * time.Second
	// prefetchTries is how often a prefetch tries in vain, one try at every peer
	// each, before it leaves the rest to the next snapshot.
	prefetchTries = 5
	// prefetchRounds bounds how often a prefetch looks what was appended meanwhile.
	prefetchRounds = 8
	// prefetchRestBytes is what the state machine may fetch by itself: entries pile
	// up only for a moment.
	prefetchRestBytes = 4 << 20
	// manifestBytesMax bounds a manifest from a peer: a million segments.
	manifestBytesMax = 64 << 20
	// goneTries is how often all peers must say that they have not got what the
	// state machine needs before the replica is given up.
	goneTries = 5
)

// catchUp fetches for one replica. It implements fsm.Fetcher.
type catchUp struct {
	p *Partition

	// staging is held by whoever uses the staging folder.
	staging sync.Mutex
	// mu guards cancel, which ends a prefetch under way.
	mu     sync.Mutex
	cancel context.CancelFunc

	// progress is of the fetch under way, nil while there is none.
	progress atomic.Pointer[fetchProgress]
}

// fetchProgress is how far a fetch is, in bytes.
type fetchProgress struct {
	total int64
	done  atomic.Int64
}

// remoteError is the failure of a peer: another may do better. All other errors
// are of this node's disk.
type remoteError struct{ error }

func (e remoteError) Unwrap() error { return e.error }

// goneError says that a peer has not got the bytes; logStart is its log start offset.
type goneError struct{ logStart int64 }

func (e goneError) Error() string {
	return fmt.Sprintf("the peer has no such segment; its log starts at offset %d", e.logStart)
}

// offer is what a peer has.
type offer struct {
	node     uint64
	lease    uint64
	manifest commitlog.Manifest
}

// Lease implements fsm.Fetcher.
func (c *catchUp) Lease(pin *commitlog.Pinned) uint64 { return c.p.leases.add(pin) }

// Fetch implements fsm.Fetcher. It runs on a worker of Raft's and blocks the
// replica's apply, nothing else.
func (c *catchUp) Fetch(j fsm.FetchJob, use func(commitlog.Manifest, *commitlog.Staging) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // ends with Fetch
		select {
		case <-j.Stop:
		case <-c.p.stopping:
		case <-ctx.Done():
		}
		cancel()
	}()
	c.endPrefetch()
	c.staging.Lock()
	defer c.staging.Unlock()
	staging, err := c.open()
	if err != nil {
		return err
	}
	m, err := c.untilComplete(ctx, j, staging)
	if ctx.Err() != nil {
		return statemachine.ErrSnapshotStopped
	}
	if err != nil {
		return err
	}
	return use(m, staging)
}

func (c *catchUp) open() (*commitlog.Staging, error) {
	o := c.p.options
	return fsm.OpenStaging(o.FS, c.p.dir, commitlog.Options{IndexIntervalBytes: o.IndexIntervalBytes, Logger: c.p.logger})
}

// untilComplete tries all peers again and again until nothing of j's manifest is
// missing, and returns the manifest as it can be had.
func (c *catchUp) untilComplete(ctx context.Context, j fsm.FetchJob, s *commitlog.Staging) (commitlog.Manifest, error) {
	m, gone := j.Manifest, 0
	sender := c.p.nodeOf(j.Sender)
	for wait := fetchRetryMin; ; wait = min(2*wait, fetchRetryMax) {
		var failed error
		all := true // every peer says that it has not got it
		for _, node := range c.peers(sender) {
			err := c.fetchMissing(ctx, offer{node: node, lease: j.Lease, manifest: m}, j.Own, s)
			var away goneError
			switch {
			case err == nil:
				return m, nil
			case !errors.As(err, new(remoteError)):
				return m, err
			case errors.As(err, &away) && away.logStart > m.State.LogStart:
				m = m.Trimmed(away.logStart) // what it was about is trimmed everywhere, or soon
			}
			all = all && errors.As(err, &away)
			failed = errors.Join(failed, err)
		}
		if gone++; !all {
			gone = 0
		}
		if gone >= goneTries {
			c.p.beyondRepair(fmt.Errorf("no peer has the segments of its snapshot any more: %w", failed))
			<-ctx.Done()
			return m, ctx.Err()
		}
		c.p.logger.Warn("segments of a snapshot cannot be fetched; trying again", "err", failed)
		if !pause(ctx, wait) {
			return m, ctx.Err()
		}
	}
}

// pause waits; false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// peers returns the nodes of the other replicas, first last, and those that may
// spare the leader before it.
func (c *catchUp) peers(first uint64) []uint64 {
	nodes := c.p.otherNodes()
	leader := c.p.Leader().Node
	rank := func(n uint64) int {
		switch n {
		case first:
			return 0 // it holds the lease
		case leader:
			return 2
		}
		return 1
	}
	slices.SortStableFunc(nodes, func(a, b uint64) int { return rank(a) - rank(b) })
	return nodes
}

// fetchMissing fetches what is missing of o's manifest from o's node.
func (c *catchUp) fetchMissing(ctx context.Context, o offer, own *commitlog.Pinned, s *commitlog.Staging) error {
	wants, bytes, err := s.Missing(o.manifest, own)
	if err != nil || len(wants) == 0 {
		return err
	}
	progress := &fetchProgress{total: bytes}
	c.progress.Store(progress)
	defer c.progress.Store(nil)
	c.p.logger.Info("fetching segments from a peer", "node", o.node, "segments", len(wants), "bytes", bytes)
	for _, w := range wants {
		err := c.fetchSegment(ctx, o, w, own, s)
		if errors.Is(err, commitlog.ErrNotTheSegment) {
			// Perhaps it was our own begin of it that was wrong.
			err = c.fetchSegment(ctx, o, w, nil, s)
		}
		if errors.Is(err, commitlog.ErrNotTheSegment) {
			return remoteError{fmt.Errorf("node %d: %w", o.node, err)}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fetchSegment fetches one segment, behind what is there of it.
func (c *catchUp) fetchSegment(ctx context.Context, o offer, w commitlog.Want, own *commitlog.Pinned, s *commitlog.Staging) error {
	in, err := s.Begin(w, own)
	if err != nil {
		return err
	}
	if in.Position() < w.Bytes() {
		request := streamRequest{Shard: c.p.spec.Shard, Lease: o.lease, Base: w.Base(), From: in.Position(), To: w.Bytes()}
		if err := c.receive(ctx, o.node, request, in); err != nil {
			return errors.Join(err, in.Close())
		}
	}
	return in.Finish()
}

// receive copies the bytes that r asks node for to w.
func (c *catchUp) receive(ctx context.Context, node uint64, r streamRequest, w io.Writer) error {
	stream, header, err := c.ask(ctx, node, r)
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // all of it is read, or the transfer has failed already
	if header.status != streamGiven {
		return remoteError{fmt.Errorf("node %d: %w", node, goneError{header.logStart})}
	}
	buf := make([]byte, 256<<10)
	for left := r.To - r.From; left > 0; {
		n, err := stream.Read(buf[:min(int64(len(buf)), left)])
		if err == nil {
			err = c.p.transfers.taking.wait(ctx, n)
		}
		if err != nil {
			return remoteError{fmt.Errorf("node %d: %w", node, err)}
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
		c.p.transfers.taken.Add(int64(n))
		c.p.options.OnFetched(n)
		if p := c.progress.Load(); p != nil {
			p.done.Add(int64(n))
		}
	}
	return nil
}

type streamHeader struct {
	status, lease uint64
	logStart      int64
}

// ask sends a request to node and reads the answer's header.
func (c *catchUp) ask(ctx context.Context, node uint64, r streamRequest) (io.ReadCloser, streamHeader, error) {
	r.Version = streamVersion
	request, err := json.Marshal(r)
	if err != nil {
		return nil, streamHeader{}, err
	}
	stream, err := c.p.options.Stream(ctx, node, request)
	if err != nil {
		return nil, streamHeader{}, remoteError{fmt.Errorf("node %d: %w", node, err)}
	}
	var b [streamHeaderBytes]byte
	if _, err := io.ReadFull(stream, b[:]); err != nil {
		return nil, streamHeader{}, remoteError{errors.Join(fmt.Errorf("node %d: %w", node, err), stream.Close())}
	}
	be := binary.BigEndian
	return stream, streamHeader{status: be.Uint64(b[:]), lease: be.Uint64(b[8:]), logStart: int64(be.Uint64(b[16:]))}, nil
}

// manifestOf asks node what it has, if need be only where that is all there is.
func (c *catchUp) manifestOf(ctx context.Context, node uint64, complete bool) (offer, error) {
	stream, header, err := c.ask(ctx, node, streamRequest{Shard: c.p.spec.Shard, Manifest: true, Complete: complete})
	if err != nil {
		return offer{}, err
	}
	defer stream.Close() //nolint:errcheck // all of it is read, or that has failed already
	b, err := io.ReadAll(io.LimitReader(stream, manifestBytesMax))
	if err != nil {
		return offer{}, remoteError{fmt.Errorf("node %d: %w", node, err)}
	}
	m, err := commitlog.DecodeManifest(b)
	if err != nil {
		return offer{}, remoteError{fmt.Errorf("manifest from node %d: %w", node, err)}
	}
	return offer{node: node, lease: header.lease, manifest: m}, nil
}

// offers asks all peers and returns what they have: those whose sealed segments
// reach furthest first, among equals whoever does not lead.
func (c *catchUp) offers(ctx context.Context) ([]offer, error) {
	var (
		out    []offer
		failed error
	)
	for _, node := range c.peers(0) {
		o, err := c.manifestOf(ctx, node, false)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		out = append(out, o)
	}
	if len(out) == 0 {
		return nil, remoteError{fmt.Errorf("no peer says what it has: %w", failed)}
	}
	slices.SortStableFunc(out, func(a, b offer) int {
		return int(min(max(b.manifest.State.ActiveBase-a.manifest.State.ActiveBase, -1), 1))
	})
	return out, nil
}

// prefetch brings into the staging what the peers have and this replica lacks, as
// far as it can before ctx ends. It does not touch the replica's own log.
func (c *catchUp) prefetch(ctx context.Context) error {
	select {
	case c.p.transfers.places <- struct{}{}:
		defer func() { <-c.p.transfers.places }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.staging.Lock()
	defer c.staging.Unlock()
	ctx, done := c.beginPrefetch(ctx)
	defer done()
	staging, err := c.open()
	if err != nil {
		return err
	}
	tries := 0
	for range prefetchRounds {
		rest, err := c.prefetchRound(ctx, staging)
		switch {
		case err == nil && rest <= prefetchRestBytes:
			return nil
		case err == nil:
			tries = 0
			continue
		case ctx.Err() != nil || !errors.As(err, new(remoteError)):
			return err
		}
		if tries++; tries >= prefetchTries || !pause(ctx, fetchRetryMin<<tries) {
			return err
		}
		c.p.logger.Warn("segments cannot be fetched; trying again", "err", err)
	}
	return nil // Raft's next snapshot goes on from here
}

// prefetchRound fetches what is missing now, and returns how much that was.
func (c *catchUp) prefetchRound(ctx context.Context, s *commitlog.Staging) (bytes int64, err error) {
	offers, err := c.offers(ctx)
	if err != nil {
		return 0, err
	}
	log, ok := c.p.machine.Log()
	if !ok {
		return 0, commitlog.ErrClosed
	}
	own := log.Pin()
	defer own.Close()
	if _, bytes, err = s.Missing(offers[0].manifest, own); err != nil {
		return 0, err
	}
	var failed error
	for _, o := range offers {
		err := c.fetchMissing(ctx, o, own, s)
		if err == nil || !errors.As(err, new(remoteError)) {
			return bytes, err
		}
		failed = errors.Join(failed, err)
	}
	return bytes, failed
}

// beginPrefetch lets endPrefetch end what runs under the returned context.
func (c *catchUp) beginPrefetch(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel = cancel
	return ctx, func() {
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.cancel = nil
	}
}

func (c *catchUp) endPrefetch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
}

// tidy removes what is staged and no longer needed, unless a fetch is under way.
func (c *catchUp) tidy() {
	if !c.staging.TryLock() {
		return
	}
	defer c.staging.Unlock()
	fs := c.p.options.FS
	if _, err := fs.Stat(fs.PathJoin(c.p.dir, fsm.StagingFolder)); storage.NotExist(err) {
		return
	}
	staging, err := c.open()
	if err == nil {
		err = staging.Drop(c.p.machine.HighWatermark())
	}
	if err != nil {
		c.p.logger.Warn("what was fetched and is not needed any more was not removed", "err", err)
	}
}

// Prefetch is raftnode's OnSnapshot: it gets what the snapshot that replica is
// about to be given lists. nil where no such replica runs here.
func (h *Host) Prefetch(ctx context.Context, shard, replica uint64) error {
	p, ok := h.Get(shard)
	if !ok || p.machine == nil || p.spec.Replica != replica {
		return nil
	}
	return p.catchUp.prefetch(ctx)
}
