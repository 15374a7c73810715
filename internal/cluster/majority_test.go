package cluster

import (
	"fmt"
	"testing"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
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
	for i := range committed {
		r, err := produceRaw(nc, "quorum", 0, produceRequest(topic.ID, -1, "", batchOf(t, fmt.Sprint("committed ", i))), 5*time.Second)
		if err != nil || r.Code != errcode.None {
			t.Fatal(err, r)
		}
	}
	gone := []uint64{leader%3 + 1, (leader+1)%3 + 1}
	began := time.Now()
	c.Stop(gone...)
	t.Logf("two nodes stopped in %v", time.Since(began))

	// The leader does not know yet that it is alone, or it has stepped down: in
	// both cases there is an answer in time, and it is never an ack.
	refused, unknown := map[string]bool{}, map[string]bool{}
	for i := range 60 {
		value := fmt.Sprint("without majority ", i)
		began = time.Now()
		r, err := produceRaw(nc, "quorum", 0, produceRequest(topic.ID, -1, "", batchOf(t, value)), 10*time.Second)
		if err != nil {
			t.Fatalf("no answer after %v: %v", time.Since(began), err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("answered after %v", took)
		}
		switch r.Code {
		case errcode.NotEnoughReplicas:
			refused[value] = true
		case errcode.RequestTimedOut:
			unknown[value] = true
		default:
			t.Fatalf("produce without a majority was answered %v %s", r.Code, r.Message)
		}
	}
	if len(refused) == 0 {
		t.Error("nothing was refused with NOT_ENOUGH_REPLICAS")
	}
	t.Logf("%d refused with NOT_ENOUGH_REPLICAS, %d ended in REQUEST_TIMED_OUT", len(refused), len(unknown))

	fetch := protocol.FetchRequest{TopicID: topic.ID, Epoch: -1, MaxBytes: 1 << 20}
	r, err := fetchRaw(nc, protocol.FetchFromSubject(leader, "quorum", 0), fetch, 5*time.Second)
	if err != nil || r.Code != errcode.None || r.HighWatermark != committed {
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
		if seen[fmt.Sprint("committed ", i)] != 1 {
			t.Errorf("committed record %d is there %d times", i, seen[fmt.Sprint("committed ", i)])
		}
	}
	for value := range refused {
		if seen[value] != 0 {
			t.Errorf("%q was refused with NOT_ENOUGH_REPLICAS and is in the log", value)
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
