package partitions

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"sync"
	"time"

	"logbroker/internal/errcode"
	"logbroker/partitions/commitlog"
)

// What a replica gives to one that lacks segments. A request is JSON, the answer
// a stream of bytes:
//
//	0  8  what the answer is: streamGiven or streamGone, big endian
//	8  8  lease that keeps what the manifest lists, 0 = none
//	16 8  log start offset
//	24 …  the manifest, or the segment's bytes; nothing where gone
const (
	streamVersion     = 1
	streamHeaderBytes = 24

	streamGiven = 1
	streamGone  = 2 // this replica has no such bytes: trimmed, or not there yet
)

// leaseTime is how long a pin stays after the last request that named it, and
// leasesMax how many a replica has.
const (
	leaseTime = time.Minute
	leasesMax = 8
)

// streamRequest asks for the manifest of a shard's log, or for bytes [From, To) of
// its segment at Base.
type streamRequest struct {
	Version  int    `json:"version"`
	Shard    uint64 `json:"shard"`
	Manifest bool   `json:"manifest,omitempty"`
	// Complete asks for the manifest only where the replica votes, is not damaged
	// and lacks nothing.
	Complete bool   `json:"complete,omitempty"`
	Lease    uint64 `json:"lease,omitempty"`
	Base     int64  `json:"base,omitempty"`
	From     int64  `json:"from,omitempty"`
	To       int64  `json:"to,omitempty"`
}

// ServeStream answers another node's request for what a replica here has; it is
// raftnode's StreamHandler. What it gives is committed and applied, so any replica
// of the shard may take it. It checks no checksum: the taker does.
func (h *Host) ServeStream(ctx context.Context, request []byte, w io.Writer) error {
	var r streamRequest
	if err := json.Unmarshal(request, &r); err != nil || r.Version != streamVersion {
		return errcode.New(errcode.UnsupportedVersion, "not a request for segments of version %d; upgrade all nodes", streamVersion)
	}
	p, ok := h.Get(r.Shard)
	if !ok || p.machine == nil {
		return errcode.New(errcode.NotLeaderOrFollower, "no replica of shard %d runs here", r.Shard)
	}
	if r.Complete && !p.lacksNothing() {
		return errcode.New(errcode.NotEnoughReplicas, "the replica of shard %d here is not complete", r.Shard)
	}
	if r.Manifest {
		return p.serveManifest(w)
	}
	return p.serveSegment(ctx, r, w)
}

// lacksNothing reports whether the replica can stand in for another one.
func (p *Partition) lacksNothing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state == StateRunning && p.lost == nil && p.joining != p.spec.Replica && p.catchUp.progress.Load() == nil
}

func (p *Partition) serveManifest(w io.Writer) error {
	log, ok := p.machine.Log()
	if !ok {
		return errcode.New(errcode.NotLeaderOrFollower, "the replica of shard %d here is stopped", p.spec.Shard)
	}
	pin := log.Pin()
	m, err := pin.Manifest()
	if err != nil {
		pin.Close()
		return err
	}
	b := appendStreamHeader(nil, streamGiven, p.leases.add(pin), m.State.LogStart)
	_, err = w.Write(m.Append(b))
	return err
}

func appendStreamHeader(b []byte, status, lease uint64, logStart int64) []byte {
	b = binary.BigEndian.AppendUint64(b, status)
	b = binary.BigEndian.AppendUint64(b, lease)
	return binary.BigEndian.AppendUint64(b, uint64(logStart))
}

// serveSegment gives bytes of one segment: of the lease's log, or, where the lease
// has run out or lacks them, of the log as it is now.
func (p *Partition) serveSegment(ctx context.Context, r streamRequest, w io.Writer) error {
	pin, done := p.leases.use(r.Lease)
	defer done()
	if pin == nil || !pin.Has(r.Base, r.To) {
		log, ok := p.machine.Log()
		if !ok {
			return errcode.New(errcode.NotLeaderOrFollower, "the replica of shard %d here is stopped", p.spec.Shard)
		}
		pin = log.Pin()
		defer pin.Close()
	}
	if !pin.Has(r.Base, r.To) {
		_, err := w.Write(appendStreamHeader(nil, streamGone, 0, p.machine.LogStart()))
		return err
	}
	if _, err := w.Write(appendStreamHeader(nil, streamGiven, r.Lease, p.machine.LogStart())); err != nil {
		return err
	}
	return pin.CopySegment(&givenBytes{ctx: ctx, p: p, w: w}, r.Base, r.From, r.To)
}

// givenBytes paces and counts what a replica gives away.
type givenBytes struct {
	ctx context.Context // of the request; it ends the waits
	p   *Partition
	w   io.Writer
}

// Write implements io.Writer.
func (g *givenBytes) Write(b []byte) (int, error) {
	if err := g.p.transfers.giving.wait(g.ctx, len(b)); err != nil {
		return 0, err
	}
	n, err := g.w.Write(b)
	g.p.transfers.given.Add(int64(n))
	g.p.options.OnGiven(n)
	return n, err
}

// leases keep pinned logs for those that fetch from them.
type leases struct {
	// mu guards the fields below. It is not held while a pin is closed.
	mu   sync.Mutex
	last uint64
	held map[uint64]*lease
}

type lease struct {
	pin   *commitlog.Pinned
	users int
	until *time.Timer // takes the lease away
}

// add keeps pin and returns its lease. Of too many the oldest goes.
func (l *leases) add(pin *commitlog.Pinned) uint64 {
	l.mu.Lock()
	if l.held == nil {
		l.held = make(map[uint64]*lease)
		l.last = uint64(time.Now().UnixNano()) // no lease of an earlier process is taken for one of this
	}
	l.last++
	id, oldest := l.last, uint64(0)
	if len(l.held) >= leasesMax {
		for other := range l.held {
			if oldest == 0 || other < oldest {
				oldest = other
			}
		}
	}
	l.held[id] = &lease{pin: pin, until: time.AfterFunc(leaseTime, func() { l.end(id, false) })}
	l.mu.Unlock()
	if oldest != 0 {
		l.end(oldest, true)
	}
	return id
}

// use returns the pin of a lease, nil where there is none, and what ends the use.
func (l *leases) use(id uint64) (pin *commitlog.Pinned, done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.held[id]
	if x == nil {
		return nil, func() {}
	}
	x.users++
	return x.pin, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		x.users--
		x.until.Reset(leaseTime)
	}
}

// end takes a lease away; one in use stays unless forced.
func (l *leases) end(id uint64, force bool) {
	l.mu.Lock()
	x := l.held[id]
	if x == nil || x.users > 0 && !force {
		l.mu.Unlock()
		return
	}
	delete(l.held, id)
	l.mu.Unlock()
	x.until.Stop()
	x.pin.Close()
}

// endAll takes all leases away, when the replica stops.
func (l *leases) endAll() {
	l.mu.Lock()
	ids := make([]uint64, 0, len(l.held))
	for id := range l.held {
		ids = append(ids, id)
	}
	l.mu.Unlock()
	for _, id := range ids {
		l.end(id, true)
	}
}
