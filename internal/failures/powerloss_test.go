package failures

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"logbroker/broker"
	"logbroker/config"
	"logbroker/internal/history"
	"logbroker/internal/recordbatch"
	"logbroker/internal/storage/storagetest"
	"logbroker/partitions"
	"logbroker/producer"
)

// The loss of power, on the same stage as the seven failures: one, two or all
// nodes, each at a moment that is met to the operation, because the nodes' file
// systems say what they are about to do. make powerloss does the same with real
// processes on real disks.

var (
	losses   = flag.Int("failures.losses", 0, "how often the power goes; each moment with one, two and three nodes is a dozen; 0: a dozen")
	lossSeed = flag.Uint64("failures.seed", 1, "which nodes lose their power, and when")
)

const (
	lossRound     = 12
	lossSenders   = 2
	lossWindow    = 8
	lossValue     = 1000
	acksBetween   = 20
	lossSegment   = 32 * config.KiB
	lossSnapshots = 48 << 10
)

// moment is what the nodes do when the power goes. fits is nil where that is no
// operation on a file.
type moment struct {
	name string
	fits func(storagetest.Op) bool
}

func moments() []moment {
	within := func(op storagetest.Op, kind storagetest.Kind) bool {
		return op.Kind == kind && strings.Contains(op.Path, "/partitions/")
	}
	return []moment{
		{name: "idle"},
		{name: "producing"},
		{"rolling a segment", func(op storagetest.Op) bool {
			return within(op, storagetest.Create) && strings.HasSuffix(op.Path, ".log")
		}},
		{"snapshotting", func(op storagetest.Op) bool {
			return within(op, storagetest.Write) && strings.Contains(op.Path, "/marker")
		}},
	}
}

// loss is one loss of power: of these nodes, so many acks or operations after the
// moment.
type loss struct {
	moment moment
	nodes  []int
	after  int
}

func (l loss) String() string {
	return fmt.Sprintf("power loss of nodes %v while %s, %d later", l.nodes, l.moment.name, l.after)
}

// deal returns n losses: each moment with one, two and three nodes, then again.
func deal(n int, seed uint64) (all []loss) {
	rng := rand.New(rand.NewPCG(seed, 0))
	for len(all) < n {
		var round []loss
		for _, m := range moments() {
			for count := 1; count <= nodes; count++ {
				round = append(round, loss{moment: m, nodes: rng.Perm(nodes)[:count], after: rng.IntN(12)})
			}
		}
		rng.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		all = append(all, round...)
	}
	return all[:n]
}

// TestLossOfPowerLosesNothing takes the power from a cluster again and again while
// two producers send, and then judges what they were told against the log of every
// replica. It ends in a line like that of make powerloss.
func TestLossOfPowerLosesNothing(t *testing.T) {
	const at = clustersRace // more of them lose their leaders where the machine is busy
	dealt := deal(cmp.Or(*losses, lossRound), *lossSeed)
	reports := make([]lossReport, at)
	var all sync.WaitGroup
	for i := range reports {
		all.Go(func() {
			var mine []loss
			for next := i; next < len(dealt); next += at {
				mine = append(mine, dealt[next])
			}
			reports[i] = playLosses(t.Context(), mine)
		})
	}
	all.Wait()
	var sum lossReport
	for _, r := range reports {
		sum.add(r)
	}
	t.Logf("cycles=%d acked=%d unknown=%d lost=%d duplicated=%d diverged=%d repairs=%d seed=%d",
		sum.cycles, sum.acked, sum.unknown, sum.lost, sum.duplicated, sum.diverged, sum.repairs, *lossSeed)
	if sum.err != nil {
		t.Error(sum.err)
	}
	if sum.cycles != len(dealt) || sum.acked < acksBetween*len(dealt) {
		t.Errorf("%d of %d cycles, %d acked", sum.cycles, len(dealt), sum.acked)
	}
}

// TestADiskThatSyncsNothingIsNoticed: what was acked while the disks ignored every
// sync is gone with the power, and the judgement says so.
func TestADiskThatSyncsNothingIsNoticed(t *testing.T) {
	g := &grid{}
	err := g.open(t.Context())
	if err == nil {
		err = errors.Join(g.breakDisks(t.Context()), g.end(t.Context()))
	}
	report := g.report
	if err = errors.Join(err, g.close()); err != nil {
		t.Fatal(err)
	}
	if report.lost < acksBetween {
		t.Errorf("%d acked records are lost, and only %d were found to be", acksBetween, report.lost)
	}
}

// lossReport is what came of losses. err has every fault.
type lossReport struct {
	cycles, acked, unknown, lost, duplicated, diverged, repairs int
	err                                                         error
}

func (r *lossReport) add(o lossReport) {
	r.cycles += o.cycles
	r.acked += o.acked
	r.unknown += o.unknown
	r.lost += o.lost
	r.duplicated += o.duplicated
	r.diverged += o.diverged
	r.repairs += o.repairs
	r.err = errors.Join(r.err, o.err)
}

// playLosses plays losses on a cluster of their own, and judges.
func playLosses(ctx context.Context, all []loss) lossReport {
	g := &grid{}
	err := g.open(ctx)
	for _, l := range all {
		if err == nil {
			if err = g.lose(ctx, l); err != nil {
				err = fmt.Errorf("%s: %w", l, err)
			}
		}
	}
	if err == nil {
		err = g.end(ctx)
	}
	g.report.err = errors.Join(g.report.err, err, g.close())
	return g.report
}

// grid is a stage whose nodes' power can be taken, with two producers.
type grid struct {
	*stage
	log     log
	senders []*pump
	report  lossReport

	// mu guards armed. It is held while the power goes, so that it goes once.
	mu    sync.Mutex
	armed *armed
}

// armed is a loss that waits for its operation.
type armed struct {
	loss loss
	// by is the node that did what was waited for, 0 before; left is how many more of
	// its operations happen.
	by   uint64
	left int
	done chan struct{} // closed when the power is gone
}

// open founds the cluster and starts the producers. close ends all, also after an
// error.
func (g *grid) open(ctx context.Context) error {
	o := options()
	o.Tick = tickRace
	o.configure = func(c *config.Config) {
		c.Storage.SegmentBytes = lossSegment
	}
	o.under = func(node uint64, u *broker.Under) {
		u.FS = storagetest.Wrap(u.FS, func(op storagetest.Op) (int, error) {
			g.happens(node, op)
			return 0, nil
		})
		u.SnapshotBytes = lossSnapshots
	}
	var err error
	if g.stage, err = newStage(ctx, o); err != nil {
		return err
	}
	if err := g.set(ctx); err != nil {
		return err
	}
	for number := range uint64(lossSenders) {
		p := &pump{number: number + 1, log: &g.log, window: make(chan struct{}, lossWindow)}
		p.p, err = producer.New(ctx, g.urls(), producer.WithDialer(g.wires.dial(g.first()+number)), producer.WithLinger(0),
			producer.WithBatchBytes(2*lossValue), producer.WithCompression(producer.None))
		if err != nil {
			return err
		}
		g.senders = append(g.senders, p)
		p.start(ctx, g.topic)
	}
	return nil
}

func (g *grid) urls() (urls []string) {
	for _, n := range g.nodes {
		urls = append(urls, n.info.ClientURL)
	}
	return urls
}

// happens is told of every operation before it happens, on the goroutine that
// does it: a power loss in it happens in the middle of what a node does.
func (g *grid) happens(node uint64, op storagetest.Op) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.armed
	switch {
	case a == nil || !slices.Contains(a.loss.nodes, int(node-1)) || !op.Kind.Mutates():
		return
	case a.by == 0 && a.loss.moment.fits(op):
		a.by = node
	case a.by != node:
		return
	default:
		a.left--
	}
	if a.left <= 0 {
		g.cutPower(g.of(a.loss)...)
		g.armed = nil
		close(a.done)
	}
}

func (g *grid) of(l loss) (which []*node) {
	for _, at := range l.nodes {
		which = append(which, g.nodes[at])
	}
	return which
}

// lose takes the power at the moment and gives it back.
func (g *grid) lose(ctx context.Context, l loss) error {
	if err := g.awaitAcks(ctx, acksBetween); err != nil {
		return err
	}
	if err := g.cutAt(ctx, l); err != nil {
		return err
	}
	g.report.cycles++
	if err := g.fall(g.of(l)...); err != nil {
		return err
	}
	g.pause(false)
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := g.restart(within, g.of(l)...); err != nil {
		g.report.repairs++
		return err
	}
	return g.await(ctx, "all replicas run", func() bool {
		return !slices.ContainsFunc(g.nodes[:], func(n *node) bool { return g.status(n).State != partitions.StateRunning })
	})
}

// cutAt returns when the power is gone.
func (g *grid) cutAt(ctx context.Context, l loss) error {
	if l.moment.fits != nil {
		a := &armed{loss: l, left: l.after, done: make(chan struct{})}
		g.mu.Lock()
		g.armed = a
		g.mu.Unlock()
		return g.await(ctx, "a node comes to the moment", func() bool {
			select {
			case <-a.done:
				return true
			default:
				return false
			}
		})
	}
	var err error
	if l.moment.name == "idle" {
		err = g.settle(ctx)
	} else {
		err = g.awaitAcks(ctx, l.after)
	}
	if err == nil {
		g.cutPower(g.of(l)...)
	}
	return err
}

// breakDisks has records acked that no disk has, and takes the power from all.
func (g *grid) breakDisks(ctx context.Context) error {
	if err := g.awaitAcks(ctx, acksBetween); err != nil {
		return err
	}
	for _, n := range g.nodes {
		n.fs.SetIgnoreSyncs(true)
	}
	if err := g.awaitAcks(ctx, acksBetween+lossSenders*lossWindow); err != nil {
		return err
	}
	if err := g.settle(ctx); err != nil {
		return err
	}
	if err := g.crash(g.nodes[:]...); err != nil {
		return err
	}
	return g.restart(ctx, g.nodes[:]...)
}

func (g *grid) pause(paused bool) {
	for _, p := range g.senders {
		p.pause(paused)
	}
}

// settle stops sending and returns when everything that was sent has its answer.
func (g *grid) settle(ctx context.Context) error {
	g.pause(true)
	return g.await(ctx, "everything that was sent is answered", func() bool {
		return !slices.ContainsFunc(g.senders, func(p *pump) bool { return p.open() > 0 })
	})
}

func (g *grid) acked() (n int) {
	for _, p := range g.senders {
		n += p.acks()
	}
	return n
}

func (g *grid) awaitAcks(ctx context.Context, n int) error {
	want := g.acked() + n
	return g.await(ctx, fmt.Sprintf("%d more acks", n), func() bool { return g.acked() >= want })
}

// end waits until all is settled and judges.
func (g *grid) end(ctx context.Context) error {
	if err := g.settle(ctx); err != nil {
		return err
	}
	err := g.await(ctx, "the replicas are the same", func() bool {
		led := false
		first := g.status(g.nodes[0])
		for _, n := range g.nodes {
			s := g.status(n)
			led = led || s.Serving
			if s.Last == 0 || s.Last != first.Last || s.Applied != s.Last || s.HighWatermark != first.HighWatermark {
				return false
			}
		}
		return led
	})
	if err != nil {
		return err
	}
	return g.judgeLosses()
}

func (g *grid) judgeLosses() error {
	var first []byte
	for _, n := range g.nodes {
		data, err := g.readLog(n)
		if err != nil {
			return err
		}
		if n == g.nodes[0] {
			first = data
		} else if !bytes.Equal(data, first) {
			g.report.diverged++
		}
		if err := g.witness(n, data); err != nil {
			return err
		}
	}
	found := history.Check(g.log.events, history.Options{})
	g.report.acked, g.report.unknown = found.Acked, found.Unknown
	g.report.lost, g.report.duplicated = found.Lost(), found.Count[history.Duplicate]
	g.report.diverged = max(g.report.diverged, found.Count[history.Diverged])
	for _, f := range found.Faults {
		g.report.err = errors.Join(g.report.err, errors.New(f.String()))
	}
	return nil
}

// witness adds what a replica holds to the history.
func (g *grid) witness(n *node, data []byte) error {
	return eachBatch(data, func(b recordbatch.Batch) error {
		if err := b.CheckCRC(); err != nil {
			return err
		}
		names, err := recordNames(b)
		for i, name := range names {
			message, err := strconv.ParseUint(name, 10, 64)
			if err != nil {
				return err
			}
			g.log.add(history.Event{Kind: history.Stored, Replica: n.id, Offset: b.BaseOffset() + int64(i), Message: message})
		}
		return err
	})
}

func (g *grid) close() error {
	gone, cancel := context.WithCancel(context.Background())
	cancel() // nothing is worth waiting for
	for _, p := range g.senders {
		p.end()
		_ = p.p.Close(gone) // what is still on its way is judged as unknown
	}
	if g.stage == nil {
		return nil
	}
	return g.stage.close()
}

// pump is a producer that keeps a window of records on their way.
type pump struct {
	number uint64
	log    *log
	p      *producer.Producer
	// window has an element for each record on its way.
	window chan struct{}
	stop   context.CancelFunc
	ended  sync.WaitGroup

	mu      sync.Mutex    // guards what follows
	resumed chan struct{} // closed at the end of a pause; nil where there is none
	sent    int64
	settled int64
	acked   int
}

// start starts the goroutine that sends; end ends it.
func (p *pump) start(ctx context.Context, topic string) {
	ctx, p.stop = context.WithCancel(ctx)
	p.ended.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case p.window <- struct{}{}:
			}
			sequence, ok := p.next(ctx)
			if !ok {
				return
			}
			p.send(ctx, topic, sequence)
		}
	})
}

func (p *pump) end() {
	if p.stop != nil {
		p.stop()
		p.ended.Wait()
	}
}

// next returns the next record's number once the pump does not pause; false: it
// has ended.
func (p *pump) next(ctx context.Context) (sequence int64, ok bool) {
	for {
		p.mu.Lock()
		resumed := p.resumed
		if resumed == nil {
			p.sent++
			sequence = p.sent
		}
		p.mu.Unlock()
		if resumed == nil {
			return sequence, true
		}
		select {
		case <-resumed:
		case <-ctx.Done():
			return 0, false
		}
	}
}

func (p *pump) pause(paused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case paused && p.resumed == nil:
		p.resumed = make(chan struct{})
	case !paused && p.resumed != nil:
		close(p.resumed)
		p.resumed = nil
	}
}

func (p *pump) send(ctx context.Context, topic string, sequence int64) {
	message := p.number<<32 | uint64(sequence)
	p.log.add(history.Event{Kind: history.Invoke, Message: message, Producer: p.number, Sequence: sequence})
	value := append(strconv.AppendUint(nil, message, 10), ' ')
	p.p.SendAsync(ctx, producer.Record{Topic: topic, Value: append(value, make([]byte, lossValue-len(value))...)}, func(receipt producer.Receipt, err error) {
		e := history.Event{Kind: history.OK, Message: message, Partition: receipt.Partition, Offset: receipt.Offset}
		if err != nil {
			e = history.Event{Kind: history.Unknown, Message: message, Note: err.Error()}
		}
		p.log.add(e)
		p.mu.Lock()
		p.settled++
		if err == nil {
			p.acked++
		}
		p.mu.Unlock()
		<-p.window
	})
}

// open is how many records are on their way.
func (p *pump) open() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent - p.settled
}

func (p *pump) acks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked
}

// TestEveryRoundHasEveryMoment with one, two and three nodes, the same ones for
// the same seed.
func TestEveryRoundHasEveryMoment(t *testing.T) {
	met := map[string]bool{}
	again := deal(12, 7)
	for i, l := range deal(12, 7) {
		met[fmt.Sprint(l.moment.name, len(l.nodes))] = true
		if l.String() != again[i].String() {
			t.Errorf("%s, then %s", l, again[i])
		}
	}
	if len(met) != nodes*len(moments()) {
		t.Error(met)
	}
}
