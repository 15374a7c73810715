package cluster

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/stall"
	"logbroker/producer"
)

func TestWithoutMajorityProduceIsRefusedByNameAndCommittedDataIsRead(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quietLeaders})
	topic := c.CreateTopic("quorum", 1, 3, nil)
	leader := c.WaitLeader("quorum", 0)
	nc := c.dial(leader)
	c.waitAnswered(nc, "quorum", 0)
	const committed = 20
	unsure := map[string]bool{} // an attempt of unknown outcome may have stored it another time
	for i := range committed {
		value := fmt.Sprint("committed ", i)
		c.WaitFor("a record is acked", func() bool {
			r, err := produceRaw(nc, "quorum", 0, produceRequest(topic.ID, -1, "", batchOf(t, value)), waitTimeout)
			unsure[value] = unsure[value] || err != nil || r.Code == errcode.RequestTimedOut
			return err == nil && r.Code == errcode.None
		})
	}
	// It is left alone as the leader, so that it is asked directly from here on.
	c.Transfer("quorum", 0, leader)
	gone := []uint64{leader%3 + 1, (leader+1)%3 + 1}
	began := time.Now()
	c.Stop(gone...)
	t.Logf("two nodes stopped in %v", time.Since(began))
	stalls := stall.Start(t)

	// The leader does not know yet that it is alone, or it has stepped down: in
	// both cases there is an answer in time, and it is never an ack.
	refused, unknown := map[string]bool{}, map[string]bool{}
	named := 0
	for i := range 60 {
		value := fmt.Sprint("without majority ", i)
		began := stalls.Mark()
		r, err := produceRaw(nc, "quorum", 0, produceRequest(topic.ID, -1, "", batchOf(t, value)), waitTimeout)
		if err != nil {
			t.Fatalf("no answer after %v: %v", stalls.Since(began), err)
		}
		if took := stalls.Since(began); took > 5*time.Second {
			t.Errorf("answered after %v", took)
		}
		switch {
		case r.Code == errcode.NotEnoughReplicas:
			refused[value] = true
			named++
		case r.Code == errcode.NotLeaderOrFollower && named == 0: // it is just stepping down
			refused[value] = true
		case r.Code == errcode.RequestTimedOut:
			unknown[value] = true
		default:
			t.Fatalf("produce without a majority was answered %v %s", r.Code, r.Message)
		}
	}
	if named == 0 {
		t.Error("nothing was refused with NOT_ENOUGH_REPLICAS")
	}
	t.Logf("%d refused with NOT_ENOUGH_REPLICAS, %d otherwise, %d ended in REQUEST_TIMED_OUT", named, len(refused)-named, len(unknown))

	fetch := protocol.FetchRequest{TopicID: topic.ID, Epoch: -1, MaxBytes: 1 << 20}
	r, err := fetchRaw(nc, protocol.FetchFromSubject(leader, "quorum", 0), fetch, waitTimeout)
	exact := !slices.Contains(slices.Collect(maps.Values(unsure)), true)
	if err != nil || r.Code != errcode.None || r.HighWatermark < committed || exact && r.HighWatermark != committed {
		t.Fatalf("fetch of committed data from the node that is left: %v, %v %s, high watermark %d", err, r.Code, r.Message, r.HighWatermark)
	}

	c.Restart(gone...)
	c.WaitLeader("quorum", 0)
	p := c.produce()
	if _, err := p.Send(within(t, waitTimeout), producer.Record{Topic: "quorum", Value: []byte("after")}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, value := range c.readAll("quorum", 0) {
		seen[value]++
	}
	for i := range committed {
		value := fmt.Sprint("committed ", i)
		if n := seen[value]; n < 1 || n > 1 && !unsure[value] {
			t.Errorf("committed record %d is there %d times", i, seen[fmt.Sprint("committed ", i)])
		}
	}
	for value := range refused {
		if seen[value] != 0 {
			t.Errorf("%q was refused and is in the log", value)
		}
	}
	for value := range unknown {
		if seen[value] > 1 {
			t.Errorf("%q is stored %d times", value, seen[value])
		}
	}
	if seen["after"] != 1 {
		t.Error("the record sent after the nodes returned is not there")
	}
}
