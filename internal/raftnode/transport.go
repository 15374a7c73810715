package raftnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// tcpFactory gives dragonboat the transport on an Endpoint's port.
type tcpFactory struct {
	endpoint *Endpoint
	options  Options
}

// Create implements config.TransportFactory.
func (f *tcpFactory) Create(c config.NodeHostConfig, messages raftio.MessageHandler, chunks raftio.ChunkHandler) raftio.ITransport {
	t := &tcpTransport{
		endpoint:   f.endpoint,
		deployment: c.GetDeploymentID(),
		resolve:    f.options.Resolve,
		messages:   messages,
		chunks:     chunks,
		onSnapshot: f.options.OnSnapshot,
		silenceMax: max(2*time.Duration(f.options.ElectionRTT)*f.options.RTT, silenceFloor),
		inbound:    make(map[net.Conn]struct{}),
	}
	t.closing, t.cancel = context.WithCancel(context.Background())
	return t
}

// Validate implements config.TransportFactory; it is asked about our own address
// only (targets are incarnations).
func (f *tcpFactory) Validate(address string) bool {
	_, _, err := net.SplitHostPort(address)
	return err == nil
}

// tcpTransport is dragonboat's transport while one Node runs on the endpoint.
// dragonboat queues, batches and retries (one goroutine per remote node and
// stream, a circuit breaker per address that waits 0.5 to 1 s after a failure);
// this type moves batches.
type tcpTransport struct {
	endpoint   *Endpoint
	deployment uint64
	resolve    func(incarnation string) (string, bool)
	messages   raftio.MessageHandler
	chunks     raftio.ChunkHandler
	onSnapshot func(ctx context.Context, o SnapshotOffer) error // may be nil
	// silenceMax is how long a peer may acknowledge nothing of a connection for
	// messages before another one takes its place.
	silenceMax time.Duration

	closing context.Context // cancelled by Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup // adopted connections, watchers of outgoing ones

	// mu guards the fields below.
	mu      sync.Mutex
	inbound map[net.Conn]struct{}
	closed  bool
}

// Name implements raftio.ITransport.
func (t *tcpTransport) Name() string { return "logbroker-tcp" }

// Start implements raftio.ITransport: the port has been open for long, from now
// on Raft traffic is taken.
func (t *tcpTransport) Start() error {
	e := t.endpoint
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return net.ErrClosed
	}
	if e.raft != nil {
		return errors.New("raftnode: another node runs on this endpoint")
	}
	e.raft = t
	return nil
}

// Close implements raftio.ITransport: no handler is called once it returns.
// dragonboat has closed its outgoing connections before.
func (t *tcpTransport) Close() error {
	t.endpoint.mu.Lock()
	if t.endpoint.raft == t {
		t.endpoint.raft = nil
	}
	t.endpoint.mu.Unlock()
	t.cancel()
	t.mu.Lock()
	t.closed = true
	for conn := range t.inbound {
		_ = conn.Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
	return nil
}

// adopt registers an accepted connection; false when the transport is closed.
func (t *tcpTransport) adopt(conn net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.inbound[conn] = struct{}{}
	t.wg.Add(1)
	return true
}

func (t *tcpTransport) release(conn net.Conn) {
	t.mu.Lock()
	delete(t.inbound, conn)
	t.mu.Unlock()
	t.wg.Done()
}

// receiveMessages serves one peer's stream of message batches.
func (t *tcpTransport) receiveMessages(conn net.Conn) error {
	frames := newFrameReader(conn, messageFrameBytesMax)
	defer frames.done()
	for {
		var batch pb.MessageBatch
		if err := frames.readBatch(&batch); err != nil {
			return err
		}
		if err := t.check(&batch); err != nil {
			return err
		}
		t.messages(batch)
	}
}

// check refuses what a correct peer never sends: dragonboat panics on some of
// it. The sender must be an incarnation that has an address: any other could not
// be answered, and would grow dragonboat's tables.
func (t *tcpTransport) check(batch *pb.MessageBatch) error {
	if batch.DeploymentId != t.deployment {
		return fmt.Errorf("%w: deployment %d, here is %d", errFrame, batch.DeploymentId, t.deployment)
	}
	if batch.BinVer != raftio.TransportBinVersion {
		return fmt.Errorf("%w: dragonboat transport version %d", errFrame, batch.BinVer)
	}
	if _, known := t.resolve(batch.SourceAddress); !known {
		return fmt.Errorf("raftnode: messages of the unknown incarnation %q", batch.SourceAddress)
	}
	for i := range batch.Requests {
		m := &batch.Requests[i]
		if m.To == 0 || m.ShardID == 0 || !travels(m.Type) {
			return fmt.Errorf("%w: message %v to replica %d of shard %d", errFrame, m.Type, m.To, m.ShardID)
		}
	}
	return nil
}

// travels tells the message types that go between nodes from those that are
// dragonboat's local events. Quiesce is off, so it does not travel.
func travels(t pb.MessageType) bool {
	switch t {
	case pb.Ping, pb.Pong, pb.Propose, pb.Replicate, pb.ReplicateResp, pb.RequestVote, pb.RequestVoteResp,
		pb.Heartbeat, pb.HeartbeatResp, pb.ReadIndex, pb.ReadIndexResp, pb.SnapshotReceived, pb.LeaderTransfer,
		pb.TimeoutNow, pb.RateLimit, pb.RequestPreVote, pb.RequestPreVoteResp, pb.NoOP:
		return true
	}
	return false
}

// unmarshal decodes body. The generated decoders check lengths but are not
// proven; a panic in one is a bad frame, not the end of the process.
func unmarshal(m pb.Unmarshaler, body []byte) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errFrame, r)
		}
	}()
	if err := m.Unmarshal(body); err != nil {
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	return nil
}

// GetConnection implements raftio.ITransport. ctx ends when dragonboat's
// transport closes; it interrupts a write that waits for a slow peer.
func (t *tcpTransport) GetConnection(ctx context.Context, target string) (raftio.IConnection, error) {
	open := func() (*outgoing, error) { return t.open(ctx, target, kindMessages) }
	c, err := open()
	if err != nil {
		return nil, err
	}
	return &messageConnection{outgoing: c, open: open, tell: t.tellUnreachable, links: make(map[link]struct{})}, nil
}

// GetSnapshotConnection implements raftio.ITransport.
func (t *tcpTransport) GetSnapshotConnection(ctx context.Context, target string) (raftio.ISnapshotConnection, error) {
	c, err := t.open(ctx, target, kindSnapshot)
	if err != nil {
		return nil, err
	}
	return &snapshotConnection{outgoing: c}, nil
}

// tellUnreachable tells the local leader of each link's shard that what it sent
// over the link may not have arrived.
//
// dragonboat's own report of a broken connection names the sending replica
// instead of the one that cannot be reached (internal/transport/transport.go:
// processMessages), so leaders never heard of it: they went on to send each new
// entry as if those before it had arrived.
func (t *tcpTransport) tellUnreachable(links map[link]struct{}) {
	news := pb.MessageBatch{DeploymentId: t.deployment, BinVer: raftio.TransportBinVersion}
	for l := range links {
		news.Requests = append(news.Requests, pb.Message{Type: pb.Unreachable, ShardID: l.shard, From: l.to, To: l.from})
	}
	if len(news.Requests) > 0 {
		t.messages(news)
	}
}

// outgoing is a connection that this node opened. One goroutine writes.
type outgoing struct {
	conn net.Conn
	stop func() bool
	gone chan struct{} // closed when the peer has closed, or the connection is
	// taken is set before gone is closed: the peer said snapshotTaken.
	taken bool
}

func (t *tcpTransport) open(ctx context.Context, target string, kind byte) (*outgoing, error) {
	conn, err := t.endpoint.dial(ctx, target, kind)
	if err != nil {
		return nil, err
	}
	if kind == kindMessages && t.silenceMax > 0 {
		limitUnacknowledged(conn, t.silenceMax)
	}
	c := &outgoing{conn: conn, gone: make(chan struct{})}
	c.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	t.wg.Add(1)
	go func() {
		defer t.wg.Done()
		c.watch()
	}()
	return c, nil
}

// watch waits for the peer to close, so that the next write fails instead of
// disappearing into a dead socket. It ends with the connection.
func (c *outgoing) watch() {
	defer close(c.gone)
	var b [1]byte
	_, _ = c.conn.Read(b[:]) // peers send nothing else on these connections
	c.taken = b[0] == snapshotTaken
	_ = c.conn.SetWriteDeadline(time.Now())
}

func (c *outgoing) lost() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

func (c *outgoing) close() {
	c.stop()
	_ = c.conn.Close()
}

// send marshals m behind the header and writes the frame. bodyMax bounds m's
// marshalled size.
func (c *outgoing) send(m pb.Marshaler, bodyMax int) error {
	if c.lost() {
		return net.ErrClosed
	}
	buf := getFrameBuffer()
	defer putFrameBuffer(buf)
	if need := frameHeaderBytes + bodyMax; len(*buf) < need {
		*buf = make([]byte, max(need, 64<<10))
	}
	n, err := m.MarshalTo((*buf)[frameHeaderBytes:])
	if err != nil {
		return err
	}
	frame := (*buf)[:frameHeaderBytes+n]
	sealFrame(frame)
	return writeFrame(c.conn, frame)
}
