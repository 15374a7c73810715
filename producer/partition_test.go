package producer

import (
	"strings"
	"sync"
	"testing"
	"time"

	"logbroker/internal/client/clienttest"
)

// manual returns the only partition of topic orders without its goroutine: the
// test calls step.
func manual(t *testing.T, p *Producer) *partition {
	t.Helper()
	meta, err := p.client.Topic(within(t), "orders")
	if err != nil {
		t.Fatal(err)
	}
	tp, err := p.adopt(meta, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	q := tp.parts[0]
	q.started = true
	return q
}

// launch starts the goroutine after all, so that Close need not wait in vain.
func (q *partition) launch() {
	q.p.goroutines.Add(1)
	go q.run()
}

// put appends a record at a time and steps until its callback has run.
func (q *partition) put(t *testing.T, now time.Time) {
	t.Helper()
	r := Record{Value: []byte("v")}
	want := q.completed.Load() + 1
	if !q.append(&r, now, recordSize(&r), nil) {
		t.Fatal("not accepted")
	}
	clienttest.Await(t, "the ack", func() bool {
		q.step(now)
		return q.completed.Load() == want
	})
}

func TestLongSilenceTakesANewEpoch(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	var mu sync.Mutex
	var epochs []int16
	b.OnProduce(func(r clienttest.Produce) clienttest.Fault {
		mu.Lock()
		defer mu.Unlock()
		epochs = append(epochs, r.Batch.ProducerEpoch())
		return clienttest.Fault{}
	})
	q := manual(t, open(t, b))
	now := time.Now()
	for _, at := range []time.Duration{0, 11 * time.Hour, 24 * time.Hour} { // the expiry is 24 h
		q.put(t, now.Add(at))
	}
	mu.Lock()
	defer mu.Unlock()
	if len(epochs) != 3 || epochs[0] != 0 || epochs[1] != 0 || epochs[2] != 1 {
		t.Fatalf("epochs %v", epochs)
	}
}

func TestLinger(t *testing.T) {
	cases := []struct {
		name     string
		opts     []Option
		idle     bool
		flushing bool
		want     time.Duration
	}{
		{"adaptive, idle", nil, true, false, 0},
		{"adaptive, busy", nil, false, false, DefaultLingerMax},
		{"fixed, idle", []Option{WithLinger(time.Second)}, true, false, time.Second},
		{"fixed, flushing", []Option{WithLinger(time.Second)}, true, true, 0},
		{"none, busy", []Option{WithLinger(0)}, false, false, 0},
	}
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	for _, c := range cases {
		p := open(t, b, c.opts...)
		q := manual(t, p)
		now := time.Now()
		q.open = p.pools.get(now)
		if c.flushing {
			p.flushing.Add(1)
		}
		if got := q.dueAt(c.idle).Sub(now); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		q.open = nil
	}
}

func TestOptionsAreCheckedTogether(t *testing.T) {
	_, err := New(within(t), nil, WithBatchBytes(1), WithMaxInFlight(100), WithPartitioner(nil), WithDeliveryTimeout(-1))
	for _, want := range []string{"WithBatchBytes", "WithMaxInFlight", "WithPartitioner", "WithDeliveryTimeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing in: %v", want, err)
		}
	}
}

func TestTheClusterCapsWindowAndDeliveryTimeout(t *testing.T) {
	b := clienttest.Start(t, 1)
	b.Window, b.Expiry = 3, time.Minute
	p := open(t, b, WithMaxInFlight(50))
	if p.options.maxInFlight != 3 || p.deliveryTimeout != 6*time.Second || p.renewAfter != 30*time.Second {
		t.Fatal(p.options.maxInFlight, p.deliveryTimeout, p.renewAfter)
	}
}
