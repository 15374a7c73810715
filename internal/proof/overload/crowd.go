package overload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"logbroker/consumer"
	"logbroker/internal/protocol"
)

const (
	// stalledCredit is what each stalled consumer asks for: as much as the library's
	// readers do.
	stalledCredit = consumer.DefaultPrefetchBytes
	// readBuffer is what the kernel may take in for a consumer that reads nothing.
	readBuffer = 4 << 10
	dialers    = 64
	dialMax    = 20 * time.Second
	// lookEvery is how often a stalled consumer sees whether it was cut.
	lookEvery = time.Second
	// stayMin is how long a stalled consumer stays at least; at most twice as long.
	stayMin = time.Minute
	// spareFiles is what this process needs beside the crowd's connections.
	spareFiles = 1000
)

// connectNow is a NATS client's first words; see the NATS client protocol.
const connectNow = `CONNECT {"verbose":false,"pedantic":false,"protocol":1,"name":"crowd"}` + "\r\nPING\r\n"

// crowd are connections that do nothing, and consumers that ask for much and read
// none of it. They speak the protocol themselves: a client library would read.
type crowd struct {
	urls  []string // host:port of the nodes
	topic string
	id    uint64 // the topic's
	parts int32

	ctx    context.Context // ends with end
	end    context.CancelFunc
	people sync.WaitGroup

	idle, stalled atomic.Int64 // that stand just now
	cut           atomic.Int64 // stalled ones that a node cut
	dropped       atomic.Int64 // idle ones that a node cut
}

// filesFor reports how many connections this process may have, of so many.
func filesFor(wanted int) (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	return min(wanted, max(int(limit.Cur)-spareFiles, 0)), nil
}

// gather opens the idle connections and returns when all stand.
func (w *crowd) gather(ctx context.Context, idle int) error {
	w.ctx, w.end = context.WithCancel(ctx)
	tickets := make(chan int, idle)
	for i := range idle {
		tickets <- i
	}
	close(tickets)
	errs := make([]error, dialers)
	var opening sync.WaitGroup
	for i := range dialers {
		opening.Go(func() { errs[i] = w.openIdle(tickets) })
	}
	opening.Wait()
	if err := errors.Join(errs...); err != nil {
		w.disperse()
		return fmt.Errorf("%d of %d idle connections: %w", w.idle.Load(), idle, err)
	}
	return nil
}

// stallAll lets so many stalled consumers come.
func (w *crowd) stallAll(n int) {
	for i := range n {
		w.people.Go(func() { w.stall(i) }) // ends with ctx
	}
}

func (w *crowd) openIdle(tickets <-chan int) error {
	for i := range tickets {
		c, r, err := w.dial(i)
		if err != nil {
			return err
		}
		w.idle.Add(1)
		w.people.Go(func() { w.rest(c, r) }) // ends with ctx, or when the node cuts it
	}
	return nil
}

// dial connects to one of the nodes and waits for its greeting.
func (w *crowd) dial(i int) (net.Conn, *bufio.Reader, error) {
	ctx, cancel := context.WithTimeout(w.ctx, dialMax)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", w.urls[i%len(w.urls)])
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(w.ctx, func() { c.Close() }) //nolint:errcheck // it ends what waits on it
	defer stop()
	if until, ok := ctx.Deadline(); ok {
		err = c.SetDeadline(until)
	}
	r := bufio.NewReaderSize(c, 64)
	if err == nil {
		_, err = c.Write([]byte(connectNow))
	}
	for line := ""; err == nil && line != "PONG"; {
		line, err = readLine(r)
	}
	if err = errors.Join(err, c.SetDeadline(time.Time{})); err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, r, nil
}

// readLine returns the beginning of the next line.
func readLine(r *bufio.Reader) (string, error) {
	line, more, err := r.ReadLine()
	text := string(line)
	for err == nil && more {
		_, more, err = r.ReadLine()
	}
	return text, err
}

// rest answers pings and nothing else.
func (w *crowd) rest(c net.Conn, r *bufio.Reader) {
	stop := context.AfterFunc(w.ctx, func() { c.Close() }) //nolint:errcheck // it ends what waits on it
	defer stop()
	defer w.idle.Add(-1)
	for {
		line, err := readLine(r)
		if err == nil && line == "PING" {
			_, err = c.Write([]byte("PONG\r\n"))
		}
		if err != nil {
			if w.ctx.Err() == nil {
				w.dropped.Add(1)
			}
			return
		}
	}
}

// stall is a consumer that asks for records and reads none. When it is cut, and
// after a while, it comes back: there is ever more to be had.
func (w *crowd) stall(i int) {
	for w.ctx.Err() == nil {
		c, _, err := w.dial(i)
		if err != nil {
			w.wait(lookEvery)
			continue
		}
		w.stalled.Add(1)
		err = w.ask(c, i)
		for stay := stayMin + rand.N(stayMin); err == nil && stay > 0 && w.wait(lookEvery); stay -= lookEvery {
			_, err = c.Write([]byte("PING\r\n"))
		}
		w.stalled.Add(-1)
		if err != nil {
			w.cut.Add(1)
		}
		_ = c.Close() // it may have been cut
	}
}

// ask asks for the first records of a partition.
func (w *crowd) ask(c net.Conn, i int) error {
	if tcp, ok := c.(*net.TCPConn); ok {
		if err := tcp.SetReadBuffer(readBuffer); err != nil {
			return err
		}
	}
	if err := c.SetWriteDeadline(time.Now().Add(dialMax)); err != nil {
		return err
	}
	request := protocol.FetchRequest{TopicID: w.id, Epoch: protocol.EpochUnknown, MaxBytes: stalledCredit, MaxWaitMs: 1000}
	payload := request.Append(nil)
	inbox := fmt.Sprintf("_INBOX.crowd%d.%d", i, rand.Uint64())
	subject := protocol.FetchSubject(w.topic, int32(i)%w.parts)
	_, err := fmt.Fprintf(c, "SUB %s 1\r\nPUB %s %s %d\r\n%s\r\n", inbox, subject, inbox, len(payload), payload)
	return errors.Join(err, c.SetWriteDeadline(time.Time{}))
}

// wait reports whether there is more to come.
func (w *crowd) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-w.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// disperse ends all connections.
func (w *crowd) disperse() {
	w.end()
	w.people.Wait()
}

// String says how many stand.
func (w *crowd) String() string {
	return fmt.Sprintf("%d idle connections, %d stalled consumers; cut by nodes: %d and %d times", w.idle.Load(), w.stalled.Load(), w.dropped.Load(), w.cut.Load())
}

// hosts takes the scheme off.
func hosts(urls []string) []string {
	out := make([]string, len(urls))
	for i, u := range urls {
		out[i] = strings.TrimPrefix(u, "nats://")
	}
	return out
}
