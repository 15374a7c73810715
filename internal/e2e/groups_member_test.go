package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// groupSettings make sessions short. A member that names no time has these.
const (
	groupSettings = "groups: {session_timeout: 4s, heartbeat_interval: 500ms}"
	groupSession  = 4 * time.Second
)

// commitEvery is how often a member of these tests commits.
const commitEvery = 50 * time.Millisecond

// news is what a member was told about partitions.
type news struct {
	at         time.Time
	kind       string // assigned, revoked or lost
	partitions []int32
}

// member is a member of a group within this process.
type member struct {
	name     string
	consumer *consumer.Consumer
	ledger   *ledger
	stop     context.CancelFunc
	running  sync.WaitGroup

	mu    sync.Mutex
	keeps chan struct{} // if not nil, nothing is given up before it is closed
	told  []news
	dirty bool // something was marked since the last successful commit
	// commits are when commits that had something to say were answered.
	commits []time.Time
	refused []string // commits, the first few
	failed  error
}

// startMember joins group and reads until stop.
func startMember(t testing.TB, l *ledger, servers []string, group, topic, name string, opts ...consumer.Option) *member {
	t.Helper()
	m := &member{name: name, ledger: l}
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	tell := func(kind string) consumer.Callback {
		return func(ctx context.Context, _ *consumer.Consumer, p []consumer.TopicPartition) { m.hear(ctx, kind, p) }
	}
	joining, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	opts = append(opts, consumer.FromEarliest(), consumer.WithAutoCommit(0), consumer.WithName(name),
		consumer.WithOnAssigned(tell("assigned")), consumer.WithOnRevoked(tell("revoked")), consumer.WithOnLost(tell("lost")))
	c, err := consumer.New(joining, servers, group, []string{topic}, opts...)
	if err != nil {
		stop()
		t.Fatalf("%s cannot join: %v", name, err)
	}
	m.consumer = c
	m.running.Go(func() { m.read(ctx) })
	m.running.Go(func() { m.commit(ctx) })
	t.Cleanup(func() {
		stop()
		_ = c.Close() // it has left already when the test came to its end
		m.running.Wait()
		if t.Failed() {
			t.Logf("%s (%s) was told %s; refused commits %q; reading ended with %v", name, c.MemberID(), m.history(time.Time{}), m.refused, m.failed)
		}
	})
	return m
}

func (m *member) hear(ctx context.Context, kind string, partitions []consumer.TopicPartition) {
	n := news{at: time.Now(), kind: kind}
	for _, p := range partitions {
		n.partitions = append(n.partitions, p.Partition)
	}
	m.mu.Lock()
	m.told = append(m.told, n)
	keeps := m.keeps
	m.mu.Unlock()
	if kind == "revoked" && keeps != nil {
		select {
		case <-keeps:
		case <-ctx.Done():
		}
	}
}

// keep makes the member give up nothing until let go.
func (m *member) keep() (letGo func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keeps = make(chan struct{})
	return sync.OnceFunc(func() { close(m.keeps) })
}

func (m *member) read(ctx context.Context) {
	for {
		records, err := m.consumer.Poll(ctx, 100)
		if err != nil {
			m.mu.Lock()
			m.failed = err
			m.mu.Unlock()
			return
		}
		for _, r := range records {
			m.ledger.add(m.name, r.Partition, r.Offset)
		}
		m.consumer.Mark(records...)
		m.mu.Lock()
		m.dirty = true
		m.mu.Unlock()
	}
}

func (m *member) commit(ctx context.Context) {
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m.mu.Lock()
		had := m.dirty
		m.dirty = false
		m.mu.Unlock()
		err := m.consumer.Commit(ctx)
		m.mu.Lock()
		switch {
		case err != nil && len(m.refused) < 5:
			m.refused = append(m.refused, err.Error())
		case err == nil && had:
			m.commits = append(m.commits, time.Now())
		}
		m.mu.Unlock()
	}
}

// since returns what the member was told after at.
func (m *member) since(at time.Time) (out []news) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.told {
		if n.at.After(at) {
			out = append(out, n)
		}
	}
	return out
}

func (m *member) history(at time.Time) string {
	text := []string{}
	for _, n := range m.since(at) {
		text = append(text, fmt.Sprintf("%s %s %v", n.at.Format("05.000"), n.kind, n.partitions))
	}
	return "[" + strings.Join(text, "; ") + "]"
}

// owned returns what the member owns as far as it was told.
func (m *member) owned() map[int32]bool {
	owned := map[int32]bool{}
	for _, n := range m.since(time.Time{}) {
		for _, p := range n.partitions {
			if n.kind == "assigned" {
				owned[p] = true
			} else {
				delete(owned, p)
			}
		}
	}
	return owned
}

// commitPause returns the longest time between two commits that were answered,
// from at on; ok says that there was one at all.
func (m *member) commitPause(at time.Time) (longest time.Duration, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := at
	for _, c := range m.commits {
		if c.After(at) {
			longest, last, ok = max(longest, c.Sub(last)), c, true
		}
	}
	return max(longest, time.Since(last)), ok
}

// drain makes the member leave in good order.
func (m *member) drain(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := m.consumer.Drain(ctx); err != nil {
		t.Errorf("%s does not leave in good order: %v", m.name, err)
	}
	m.stop()
	m.running.Wait()
}

// awaitOwned waits until the members own as many partitions as sizes says, in
// their order, all of them together being all there are.
func awaitOwned(t testing.TB, timeout time.Duration, partitions int, members []*member, sizes ...int) {
	t.Helper()
	await(t, timeout, fmt.Sprintf("%d members own %v of %d partitions", len(members), sizes, partitions), func() (bool, string) {
		all, counts := map[int32]bool{}, []int{}
		for _, m := range members {
			owned := m.owned()
			counts = append(counts, len(owned))
			for p := range owned {
				all[p] = true
			}
		}
		slices.Sort(counts)
		return len(all) == partitions && slices.Equal(counts, sizes), fmt.Sprint(counts)
	})
}

// describeGroup returns nil and why where nobody says just now.
func describeGroup(t testing.TB, c *client.Client, group string) (*protocol.GroupDescription, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	d, err := c.Admin().DescribeGroup(ctx, group)
	if err != nil {
		return nil, err.Error()
	}
	return d, ""
}

// awaitStable waits until the group has so many members and nothing is on its way.
func awaitStable(t testing.TB, c *client.Client, group string, members int) *protocol.GroupDescription {
	t.Helper()
	var d *protocol.GroupDescription
	await(t, 10*time.Second, fmt.Sprintf("group %s is stable with %d members", group, members), func() (bool, string) {
		var why string
		if d, why = describeGroup(t, c, group); d == nil {
			return false, why
		}
		return d.State == protocol.GroupStable && len(d.Members) == members, fmt.Sprintf("%s, %d members", d.State, len(d.Members))
	})
	return d
}

// committed returns the group's committed offsets.
func committed(t testing.TB, c *client.Client, group string) map[int32]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	offsets, err := c.Admin().GroupOffsets(ctx, group)
	if err != nil {
		t.Fatalf("committed offsets of %s: %v", group, err)
	}
	at := map[int32]int64{}
	for _, o := range offsets {
		at[o.Partition] = o.Offset
	}
	return at
}

// ends returns the high watermark of each partition.
func ends(t testing.TB, c *client.Client, topic string, partitions int) map[int32]int64 {
	t.Helper()
	all := map[int32]int64{}
	for p := range int32(partitions) {
		all[p] = latest(t, c, topic, p)
	}
	return all
}

// memberCommand makes the test binary a member of a group in a process of its
// own: SERVERS GROUP TOPIC. It prints "r PARTITION OFFSET" for each record, "id
// MEMBER", "assigned|revoked|lost PARTITIONS" and which of its commits failed.
// From SIGUSR1 on it does not commit; when it is woken from a stop it commits at
// once, and goes on with that.
const memberCommand = "group-member"

func memberMain(args []string) int {
	if len(args) != 3 {
		return 2
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGCONT, syscall.SIGUSR1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	say := func(kind string) consumer.Callback {
		return func(_ context.Context, _ *consumer.Consumer, partitions []consumer.TopicPartition) {
			text := []string{}
			for _, p := range partitions {
				text = append(text, fmt.Sprint(p.Partition))
			}
			fmt.Println(kind, strings.Join(text, " "))
		}
	}
	c, err := consumer.New(ctx, strings.Split(args[0], ","), args[1], []string{args[2]}, consumer.FromEarliest(), consumer.WithAutoCommit(0), consumer.WithName("process"),
		consumer.WithOnAssigned(say("assigned")), consumer.WithOnRevoked(say("revoked")), consumer.WithOnLost(say("lost")))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("id", c.MemberID())
	go memberReads(ctx, c)
	return memberCommits(ctx, c, signals)
}

func memberReads(ctx context.Context, c *consumer.Consumer) {
	for {
		records, err := c.Poll(ctx, 100)
		if err != nil {
			return
		}
		var text strings.Builder
		for _, r := range records {
			fmt.Fprintln(&text, "r", r.Partition, r.Offset)
		}
		fmt.Print(text.String())
		c.Mark(records...)
	}
}

func memberCommits(ctx context.Context, c *consumer.Consumer, signals <-chan os.Signal) int {
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	holding := false
	for {
		select {
		case s := <-signals:
			switch s {
			case syscall.SIGTERM:
				if err := c.Drain(ctx); err != nil && !errors.Is(err, consumer.ErrClosed) {
					fmt.Fprintln(os.Stderr, err)
					return 1
				}
				return 0
			case syscall.SIGUSR1:
				holding = true
				fmt.Println("holding")
				continue
			}
			holding = false
			fmt.Println("woken, commit:", errcode.Of(c.Commit(ctx)))
		case <-tick.C:
			if holding {
				continue
			}
			if err := c.Commit(ctx); err != nil {
				fmt.Println("commit:", errcode.Of(err))
			}
		}
	}
}
