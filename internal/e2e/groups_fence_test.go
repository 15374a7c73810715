package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/client"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// TestCoordinatorThatStoodStillChangesNothingThatItsSuccessorDecided stops the
// coordinator's process for longer than the sessions of both members, with a
// commit on its way to it, and lets it go on when its successor has removed the one
// that fell silent and given everything to the other. It must neither remove that
// one, whose heartbeats it did not hear, nor store the commit that waits in its
// socket, and that it may propose before it learns that it leads no more.
func TestCoordinatorThatStoodStillChangesNothingThatItsSuccessorDecided(t *testing.T) {
	t.Parallel()
	c := startCluster(t, groupSettings)
	admin := dial(t, c.urls()...)
	createTopic(t, admin, "events", 4)
	load := startLoad(t, c.urls(), "events") // something to commit
	load.awaitAcks(t, 4, 100, 20*time.Second)
	load.finish(t)
	a := rawMember{t: t, id: "a", client: admin}
	b := rawMember{t: t, id: "b", client: admin}
	await(t, 30*time.Second, "both own two partitions", func() (bool, string) {
		err := errors.Join(a.beat(), b.beat())
		return err == nil && a.has() == 2 && b.has() == 2, fmt.Sprint(a.owned, b.owned, err)
	})
	if err := a.commit(10); err != nil {
		t.Fatal(err)
	}
	before, why := describeGroup(t, admin, "g")
	if before == nil {
		t.Fatal(why)
	}
	old := c.nodes[before.Coordinator-1]
	others := []string{}
	for _, n := range c.nodes {
		if n != old {
			others = append(others, n.url())
		}
	}
	late := dialNode(t, old)
	b.client = dial(t, others...)

	stopped := time.Now()
	old.signal(t, syscall.SIGSTOP)
	answered := make(chan error, 1)
	go func() { answered <- a.commitBy(late, 50) }() // waits in the socket, ends with its time-out
	await(t, 30*time.Second, "b owns all, once a's session is over", func() (bool, string) {
		err := b.beat()
		return err == nil && b.has() == 4, fmt.Sprint(b.owned, err)
	})
	if err := b.commit(100); err != nil {
		t.Fatal(err)
	}
	stays := b.keepBeating()
	after, why := describeGroup(t, b.client, "g")
	if after == nil {
		t.Fatal(why)
	}

	<-time.After(time.Until(stopped.Add(fenceSession + time.Second)))
	old.signal(t, syscall.SIGCONT)
	select {
	case err := <-answered:
		t.Logf("the late commit: %v", err)
		if err == nil {
			t.Error("a commit was taken that a member sent which is none any more")
		}
	case <-time.After(rawWithin + 5*time.Second):
		t.Fatal("the late commit is not answered")
	}
	awaitApplied(t, dial(t, old.url())) // it has handled what waited, and caught up
	for _, servers := range [][]string{{old.url()}, others} {
		asked := dial(t, servers...)
		now := awaitStable(t, asked, "g", 1)
		if now.GroupEpoch != after.GroupEpoch || !reflect.DeepEqual(now.Members, after.Members) {
			t.Errorf("the group changed from epoch %d, %+v to epoch %d, %+v", after.GroupEpoch, after.Members, now.GroupEpoch, now.Members)
		}
		for p, at := range committed(t, asked, "g") {
			if at != 100 {
				t.Errorf("partition %d: %d is committed, want 100", p, at)
			}
		}
	}
	if err := stays(); err != nil {
		t.Errorf("the member that the successor took in: %v", err)
	}
	c.stop(t)
}

// fenceSession is the session of both members: longer than a busy machine stands still.
const fenceSession = 4 * time.Second

// rawWithin is how long a raw request may wait for its answer.
const rawWithin = 15 * time.Second

// rawMember is a member of group g by hand.
type rawMember struct {
	t        *testing.T
	id       string
	client   *client.Client
	epoch    int32
	sequence int64
	owned    []protocol.TopicPartitions
}

// beat sends a heartbeat; the first one joins, as does the one after a removal.
func (m *rawMember) beat() error {
	ctx, cancel := context.WithTimeout(context.Background(), rawWithin)
	defer cancel()
	var reply protocol.HeartbeatReply
	err := m.client.Group(ctx, protocol.VerbGroupHeartbeat, "g", protocol.HeartbeatRequest{
		Version: protocol.ControlVersion, Group: "g", MemberID: m.id, MemberEpoch: m.epoch, Topics: []string{"events"}, Owned: m.owned,
		SessionTimeoutMs: fenceSession.Milliseconds(),
	}, &reply)
	switch {
	case err == nil:
		m.epoch, m.owned = reply.MemberEpoch, reply.Assignment
	case errcode.Of(err) == errcode.UnknownMemberID:
		m.epoch, m.owned = 0, nil
	}
	return err
}

// has is how many partitions it may own.
func (m *rawMember) has() (n int) {
	for _, t := range m.owned {
		n += len(t.Partitions)
	}
	return n
}

// keepBeating sends heartbeats until stop, which returns the first error.
func (m *rawMember) keepBeating() (stop func() error) {
	ctx, cancel := context.WithCancel(m.t.Context())
	failed := make(chan error, 1)
	go func() { // ends with stop or the test
		tick := time.NewTicker(fenceSession / 20)
		defer tick.Stop()
		var first error
		for ctx.Err() == nil {
			if err := m.beat(); first == nil {
				first = err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		failed <- first
	}()
	return func() error {
		cancel()
		return <-failed
	}
}

// commitRequest commits one offset for all the member owns.
func (m *rawMember) commitRequest(offset int64) protocol.CommitRequest {
	m.sequence++
	req := protocol.CommitRequest{Version: protocol.ControlVersion, Group: "g", MemberID: m.id, MemberEpoch: m.epoch, Sequence: m.sequence}
	for _, p := range m.owned[0].Partitions {
		req.Offsets = append(req.Offsets, protocol.CommittedOffset{Topic: "events", TopicID: m.owned[0].TopicID, Partition: p, Offset: offset})
	}
	return req
}

func (m *rawMember) commit(offset int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), rawWithin)
	defer cancel()
	var reply protocol.CommitReply
	if err := m.client.Group(ctx, protocol.VerbGroupCommit, "g", m.commitRequest(offset), &reply); err != nil {
		return err
	}
	return refusedIn(reply)
}

// commitBy sends a commit once, by nc, and returns what the first answer says.
func (m *rawMember) commitBy(nc *nats.Conn, offset int64) error {
	payload, err := json.Marshal(m.commitRequest(offset))
	if err != nil {
		return err
	}
	answer, err := nc.Request(protocol.GroupSubject(protocol.VerbGroupCommit, "g"), payload, rawWithin)
	if err != nil {
		return err
	}
	var reply protocol.Envelope[protocol.CommitReply]
	if err := json.Unmarshal(answer.Data, &reply); err != nil {
		return err
	}
	if reply.Error != nil {
		return reply.Error.Err()
	}
	return refusedIn(reply.Body)
}

// refusedIn returns the first refusal of a partition.
func refusedIn(reply protocol.CommitReply) error {
	for _, r := range reply.Results {
		if r.Error != nil {
			return r.Error.Err()
		}
	}
	return nil
}

// dialNode returns a connection that stays with one node: the client library
// finds the coordinator wherever it is.
func dialNode(t testing.TB, n *node) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(n.url(), nats.IgnoreDiscoveredServers(), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// awaitApplied waits until the cluster says by way of c that every replica is there.
func awaitApplied(t testing.TB, c *client.Client) {
	t.Helper()
	await(t, 20*time.Second, "all is healthy", func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		health, err := c.Admin().ClusterHealth(ctx)
		if err != nil {
			return false, err.Error()
		}
		return health.Healthy, fmt.Sprint(health.Reasons)
	})
}
