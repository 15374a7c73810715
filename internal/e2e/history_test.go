package e2e

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/internal/client"
	"logbroker/internal/history"
	"logbroker/producer"
)

const (
	// historyFor is how long faults happen, historyForShort the same where time is
	// short.
	historyFor      = time.Minute
	historyForShort = 20 * time.Second
	// historyPartitions is before the increase, historyMore after it.
	historyPartitions, historyMore = 12, 15
	// historySendEvery: 250 records a second.
	historySendEvery = 4 * time.Millisecond
	// historyFetchEvery is how often each group's offsets are looked at.
	historyFetchEvery = 100 * time.Millisecond
	// historyHandOutMax is generous: on a busy machine a process may stand still.
	historyHandOutMax = 3 * time.Second
	historyHealMax    = 60 * time.Second
)

var (
	historySeed   = flag.Uint64("history.seed", 1, "seed of the group history's schedule; 0: another one each time")
	historyLength = flag.Duration("history.for", 0, "how long the group history's faults go on; 0: a minute, or 20 s with -short or -race")
)

// historyRun is a cluster with a producer, two groups, and faults.
type historyRun struct {
	t       *testing.T
	dir     string
	c       *cluster
	admin   *client.Client
	nemesis *history.Recorder
	faults  int
	files   []string
	members map[string]*process // by name, those that run or are stopped
	stopped map[string]bool
	// down is the node that a fault is about, 0 for none; its kind says how it
	// comes back.
	down     int
	downBy   faultKind
	starting *node // being restarted
}

// TestGroupsUnderRandomFaultsKeepTheirPromises runs two groups while members
// come, go, die and stand still and the coordinator's node does, and judges the
// history that all of them wrote.
func TestGroupsUnderRandomFaultsKeepTheirPromises(t *testing.T) {
	t.Parallel()
	seed, length := *historySeed, *historyLength
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	if length == 0 {
		length = historyFor
		if raceEnabled || testing.Short() {
			length = historyForShort
		}
	}
	t.Logf("seed %d", seed)
	r := startHistory(t)
	send, look := r.startProducer(), r.startObserver()
	for g, group := range historyGroups {
		for n := 1; n <= group.first; n++ {
			r.join(g, n)
		}
	}
	began := time.Now()
	for _, f := range schedule(seed, length) {
		if wait := time.Until(began.Add(f.at)); wait > 0 {
			<-time.After(wait)
		}
		t.Logf("%6.2fs: %s", time.Since(began).Seconds(), f)
		r.inject(f)
	}
	r.heal()
	send.finish()
	r.awaitDrained()
	r.leaveAll()
	look.finish()
	events := r.finish()
	report := history.Check(events, historyOptions())
	for _, f := range report.Faults {
		t.Error(f)
	}
	fmt.Printf("seed=%d faults=%d acked=%d unknown=%d delivered=%d committed=%d owners=%d gaps=%d back=%d lost=%d\n", seed, r.faults, report.Acked, report.Unknown, report.Delivered, report.Committed,
		report.Count[history.TwoOwners], report.Count[history.Gap], report.Count[history.OffsetWentBack], report.Lost()+report.Count[history.Undelivered])
	if report.Acked == 0 || report.Committed == 0 || report.Excused != 0 {
		t.Errorf("%d acked, %d committed, %d excused: the run proves nothing", report.Acked, report.Committed, report.Excused)
	}
	wantMutationsCaught(t, events)
}

func historyOptions() history.Options {
	o := history.Options{HandOutMax: int64(historyHandOutMax)}
	for _, g := range historyGroups {
		o.Drained = append(o.Drained, g.name)
	}
	return o
}

func startHistory(t *testing.T) *historyRun {
	r := &historyRun{t: t, dir: t.TempDir(), c: startCluster(t, groupSettings), members: map[string]*process{}, stopped: map[string]bool{}}
	r.admin = dial(t, r.c.urls()...)
	createTopic(t, r.admin, "events", historyPartitions)
	awaitSpread(t, r.admin, "events", spreadMax)
	r.nemesis = r.recorder("nemesis")
	return r
}

// file names a file of the history.
func (r *historyRun) file(name string) string {
	file := filepath.Join(r.dir, name+".jsonl")
	r.files = append(r.files, file)
	return file
}

func (r *historyRun) recorder(name string) *history.Recorder {
	r.t.Helper()
	rec, err := history.Create(r.file(name), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return rec
}

// background is a goroutine that records until it is told to end.
type background struct {
	t        *testing.T
	recorder *history.Recorder
	stop     context.CancelFunc
	running  sync.WaitGroup
	end      func() error
}

// begin runs each every so often.
func (r *historyRun) begin(name string, every time.Duration, each func(ctx context.Context, rec *history.Recorder)) *background {
	ctx, stop := context.WithCancel(context.Background())
	b := &background{t: r.t, recorder: r.recorder(name), stop: stop, end: func() error { return nil }}
	b.running.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				each(ctx, b.recorder)
			}
		}
	})
	r.t.Cleanup(func() {
		stop()
		b.running.Wait()
	})
	return b
}

func (b *background) finish() {
	b.t.Helper()
	b.stop()
	b.running.Wait()
	if err := b.end(); err != nil {
		b.t.Error(err)
	}
	if err := b.recorder.Close(); err != nil {
		b.t.Error(err)
	}
}

// startProducer sends numbered records.
func (r *historyRun) startProducer() *background {
	r.t.Helper()
	p, err := producer.New(r.t.Context(), r.c.urls(), producer.WithLinger(2*time.Millisecond))
	if err != nil {
		r.t.Fatal(err)
	}
	number := uint64(0)
	b := r.begin("producer", historySendEvery, func(_ context.Context, rec *history.Recorder) {
		number++
		id := number
		rec.Record(history.Event{Kind: history.Invoke, Message: id, Producer: 1, Sequence: int64(id)})
		// Sent under no deadline: a record that is in the producer is delivered or fails.
		p.SendAsync(context.Background(), producer.Record{Topic: "events", Key: loadKey(int(id)), Value: binary.BigEndian.AppendUint64(nil, id)},
			func(receipt producer.Receipt, err error) {
				e := history.Event{Kind: history.OK, Message: id, Partition: receipt.Partition, Offset: receipt.Offset}
				if err != nil {
					e = history.Event{Kind: history.Unknown, Message: id, Note: err.Error()}
				}
				rec.Record(e)
			})
	})
	b.end = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), historyHealMax)
		defer cancel()
		return p.Close(ctx)
	}
	return b
}

// startObserver looks at the groups' offsets.
func (r *historyRun) startObserver() *background {
	return r.begin("observer", historyFetchEvery, func(ctx context.Context, rec *history.Recorder) {
		for _, g := range historyGroups {
			began := history.Now()
			asking, cancel := context.WithTimeout(ctx, 5*time.Second)
			offsets, err := r.admin.Admin().GroupOffsets(asking, g.name)
			cancel()
			if err != nil {
				continue // nobody answers just now
			}
			for _, o := range offsets {
				rec.Record(history.Event{Kind: history.Fetched, Began: began, Group: g.name, Partition: o.Partition, Offset: o.Offset})
			}
		}
	})
}

func memberName(group, number int) string {
	return fmt.Sprintf("%s-%d", historyGroups[group].name, number)
}

func (r *historyRun) join(group, number int) {
	name := memberName(group, number)
	r.members[name] = launchProcess(r.t, name, nil, os.Args[0], historyCommand, strings.Join(r.c.urls(), ","), historyGroups[group].name, "events", name, r.file(name))
}

// begun waits until a member's process has begun to write, and returns it.
func (r *historyRun) begun(name string) *process {
	r.t.Helper()
	await(r.t, 30*time.Second, name+" begins", func() (bool, string) {
		info, err := os.Stat(filepath.Join(r.dir, name+".jsonl"))
		return err == nil && info.Size() > 0, fmt.Sprint(err)
	})
	return r.members[name]
}

// inject does what f says.
func (r *historyRun) inject(f fault) {
	r.t.Helper()
	name := ""
	if f.member > 0 {
		name = memberName(f.group, f.member)
	}
	switch f.kind {
	case healMember:
		r.resume(name)
		return
	case healRestart, healResume:
		r.healNode()
		return
	case faultJoin:
		r.join(f.group, f.member)
	case faultLeave:
		r.begun(name).signal(r.t, syscall.SIGTERM) // its end is waited for at the end
	case faultKillMember:
		r.begun(name).kill()
		r.nemesis.Record(history.Event{Kind: history.Killed, Process: name})
		delete(r.members, name)
	case faultStopMember:
		r.begun(name)
		r.nemesis.Record(history.Event{Kind: history.Stopped, Process: name})
		r.members[name].signal(r.t, syscall.SIGSTOP)
		r.stopped[name] = true
	case faultKillNode, faultStopNode, faultHandOver:
		r.hitCoordinator(f.kind)
	case faultMorePartits:
		r.morePartitions()
	}
	r.faults++
}

func (r *historyRun) resume(name string) {
	r.members[name].signal(r.t, syscall.SIGCONT)
	r.nemesis.Record(history.Event{Kind: history.Resumed, Process: name})
	delete(r.stopped, name)
}

// hitCoordinator does something to the node that coordinates the larger group.
func (r *historyRun) hitCoordinator(kind faultKind) {
	r.t.Helper()
	if r.starting != nil { // a majority runs at any time
		r.starting.awaitReady(r.t)
		r.starting = nil
	}
	coordinator := uint64(0)
	await(r.t, 20*time.Second, "somebody coordinates", func() (bool, string) {
		d, why := describeGroup(r.t, r.admin, historyGroups[0].name)
		if d != nil {
			coordinator = d.Coordinator
		}
		return coordinator != 0, why
	})
	r.down, r.downBy = int(coordinator), kind
	n := r.c.nodes[r.down-1]
	switch kind {
	case faultKillNode:
		n.kill()
	case faultStopNode:
		n.signal(r.t, syscall.SIGSTOP)
	case faultHandOver:
		n.signal(r.t, syscall.SIGTERM)
	}
}

// healNode brings back the node that is down.
func (r *historyRun) healNode() {
	r.t.Helper()
	n := r.c.nodes[r.down-1]
	r.down = 0
	if r.downBy == faultStopNode {
		n.signal(r.t, syscall.SIGCONT)
		return
	}
	n.ended(r.t, drainTimeout)
	n.start(r.t)
	r.starting = n
}

func (r *historyRun) morePartitions() {
	r.t.Helper()
	await(r.t, 20*time.Second, "partitions are added", func() (bool, string) {
		ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
		defer cancel()
		_, err := r.admin.Admin().AddPartitions(ctx, "events", historyMore)
		if err == nil {
			return true, ""
		}
		d, _ := describe(r.t, r.admin, "events") // an attempt before may have come through
		return d != nil && len(d.Partitions) == historyMore, err.Error()
	})
}

// heal brings back all that is down and lets every member run.
func (r *historyRun) heal() {
	r.t.Helper()
	for name := range r.stopped {
		r.resume(name)
	}
	if r.down != 0 {
		r.healNode()
	}
	if r.starting != nil {
		r.starting.awaitReady(r.t)
		r.starting = nil
	}
}

// awaitDrained waits until both groups have committed all there is.
func (r *historyRun) awaitDrained() {
	r.t.Helper()
	for _, g := range historyGroups {
		await(r.t, historyHealMax, "group "+g.name+" has no lag", func() (bool, string) {
			d, why := describeGroup(r.t, r.admin, g.name)
			if d == nil {
				return false, why
			}
			unread := 0
			for _, p := range d.Partitions {
				if p.Lag == nil || *p.Lag > 0 {
					unread++
				}
			}
			return !d.Incomplete && unread == 0, fmt.Sprintf("%s, %d members, %d partitions with lag, total %d, problems %v", d.State, len(d.Members), unread, d.TotalLag, d.Problems)
		})
	}
}

// leaveAll makes every member leave; those that left before must have ended.
func (r *historyRun) leaveAll() {
	r.t.Helper()
	for name := range r.members {
		r.begun(name).signalIfAlive(syscall.SIGTERM)
	}
	for name, p := range r.members {
		if code := p.ended(r.t, 2*historyLeaveMax); code != 0 {
			r.t.Errorf("%s ended with %d: %s", name, code, tail(p.stderr.String(), 5))
		}
	}
}

// finish reads the final log and group offsets, stops the cluster, and returns
// the whole history.
func (r *historyRun) finish() []history.Event {
	r.t.Helper()
	log := r.recorder("log")
	for p := range int32(historyMore) {
		end := readAll(r.t, r.c.urls(), "events", p, func(rec consumer.Record) {
			log.Record(history.Event{Kind: history.Stored, Partition: p, Offset: rec.Offset, Message: binary.BigEndian.Uint64(rec.Value)})
		})
		for _, g := range historyGroups {
			began := history.Now()
			if at := committed(r.t, r.admin, g.name)[p]; at != end {
				r.t.Errorf("group %s, partition %d: %d is committed at the end, want %d", g.name, p, at, end)
			} else {
				log.Record(history.Event{Kind: history.Fetched, Began: began, Group: g.name, Partition: p, Offset: at})
			}
		}
	}
	for _, rec := range []*history.Recorder{log, r.nemesis} {
		if err := rec.Close(); err != nil {
			r.t.Error(err)
		}
	}
	r.c.stop(r.t)
	got := run(r.t, 30*time.Second, nil, logbrokerd(), append([]string{"storage", "verify"}, r.c.dirs()...)...)
	if n := strings.Count(got.stdout, "identical"); got.code != 0 || n != historyMore {
		r.t.Errorf("storage verify: exit code %d, %d of %d partitions identical:\n%s%s", got.code, n, historyMore, got.stdout, got.stderr)
	}
	events, torn, err := history.Load(r.files...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Logf("%d events of %d processes, %d files torn", len(events), len(r.files), torn)
	return events
}

// signalIfAlive is signal where the process may have ended.
func (p *process) signalIfAlive(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// wantMutationsCaught changes a history of a real run in ways that a broken
// cluster would: each must be caught.
func wantMutationsCaught(t *testing.T, events []history.Event) {
	t.Helper()
	first := func(ok func(e history.Event) bool) (history.Event, bool) {
		if i := slices.IndexFunc(events, ok); i >= 0 {
			return events[i], true
		}
		return history.Event{}, false
	}
	// next is told that it owns what another member has committed before.
	var commit history.Event
	next, ok := first(func(a history.Event) (found bool) {
		if a.Kind == history.Assigned {
			commit, found = first(func(e history.Event) bool {
				return e.Kind == history.Committed && e.Group == a.Group && e.Partition == a.Partition && e.Member != a.Member && e.Offset > 1 && e.At < a.At
			})
		}
		return found
	})
	if !ok {
		t.Fatal("no partition moved after a commit: the run proves nothing")
	}
	late := commit
	late.Began, late.At = next.At+1, next.At+2
	back := history.Event{Kind: history.Fetched, Group: commit.Group, Partition: commit.Partition, Began: commit.At + 1, At: commit.At + 2, Offset: commit.Offset - 1}
	record, _ := first(func(e history.Event) bool {
		return e.Kind == history.Stored && e.Partition == commit.Partition && e.Offset == commit.Offset-1
	})
	for verdict, changed := range map[history.Verdict][]history.Event{
		history.TwoOwners:      append(slices.Clone(events), late),
		history.OffsetWentBack: append(slices.Clone(events), back),
		history.Gap: slices.DeleteFunc(slices.Clone(events), func(e history.Event) bool {
			return e.Kind == history.Delivered && e.Group == commit.Group && e.Partition == commit.Partition && e.Offset == commit.Offset-1
		}),
	} {
		if history.Check(changed, historyOptions()).Count[verdict] == 0 {
			t.Errorf("a history that is wrong by %q is not caught", verdict)
		}
	}
	lost := slices.DeleteFunc(slices.Clone(events), func(e history.Event) bool { return e == record })
	if r := history.Check(lost, historyOptions()); r.Lost() == 0 {
		t.Error("a history with a lost record is not caught")
	}
}
