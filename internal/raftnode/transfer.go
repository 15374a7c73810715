package raftnode

import (
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// transferFactory wraps a transport so that leader transfers take milliseconds
// under load.
//
// A leader that is asked to hand over refuses every proposal, waits until the
// target has its whole log and sends it one TimeoutNow. dragonboat's follower
// ignores that message while it has anything committed and not applied (it takes
// it for a membership change that might be pending; raft.go:
// hasConfigChangeToApply), which under load is always. The leader then refuses
// proposals until an election time-out has gone by. But with the proposals
// stopped the follower is done applying a moment later: so the message is
// delivered to it again, a few times, within that election time-out. A repeated
// TimeoutNow is what the network may do anyway: the campaign it starts raises the
// term, after which the message is stale and ignored.
type transferFactory struct {
	TransportFactory
	within time.Duration // less than an election time-out
}

// Create implements config.TransportFactory.
func (f transferFactory) Create(c config.NodeHostConfig, messages raftio.MessageHandler, chunks raftio.ChunkHandler) raftio.ITransport {
	t := &transferTransport{messages: messages, within: f.within, closing: make(chan struct{})}
	t.ITransport = f.TransportFactory.Create(c, t.receive, chunks)
	return t
}

// firstRepeat is the pause before the first repetition; each next one is twice
// as long.
const firstRepeat = 2 * time.Millisecond

type transferTransport struct {
	raftio.ITransport
	messages raftio.MessageHandler
	within   time.Duration
	closing  chan struct{} // closed by Close: repetitions end

	// mu guards closed, and that wg grows only while it is false.
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // running repetitions
}

// Close implements raftio.ITransport: no handler is called once it returns.
func (t *transferTransport) Close() error {
	err := t.ITransport.Close()
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		close(t.closing)
	}
	t.mu.Unlock()
	t.wg.Wait()
	return err
}

func (t *transferTransport) receive(batch pb.MessageBatch) {
	for _, m := range batch.Requests {
		if m.Type == pb.TimeoutNow {
			t.repeat(batch, m)
		}
	}
	t.messages(batch)
}

// repeat starts the goroutine that delivers m again; it ends by itself within
// t.within, or with Close.
func (t *transferTransport) repeat(batch pb.MessageBatch, m pb.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	batch.Requests = nil
	t.wg.Add(1)
	go func() {
		defer t.wg.Done()
		for pause, waited := firstRepeat, time.Duration(0); waited+pause < t.within; pause *= 2 {
			waited += pause
			select {
			case <-t.closing:
				return
			case <-time.After(pause):
				again := batch
				again.Requests = []pb.Message{m} // the handler keeps the slice
				t.messages(again)
			}
		}
	}()
}
