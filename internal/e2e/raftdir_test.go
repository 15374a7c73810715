package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/producer"
)

// Nodes A, B and C hold one partition. While C is away, records are acked by A
// and B alone. Then A loses its Raft log. If A came back empty under its old
// name, A and C would be a majority without those records. It comes back with new
// replicas, as soon as the others are a majority.
func TestALostRaftDirectoryIsMadeAnewAndLosesNoAckedRecord(t *testing.T) {
	t.Parallel()
	const records = 100
	c := startCluster(t, "")
	admin := dial(t, c.urls()...)
	createTopic(t, admin, "orders", 1)
	awaitSpread(t, admin, "orders", 20*time.Second)
	d, why := describe(t, admin, "orders")
	if d == nil {
		t.Fatal(why)
	}
	leader := int(*d.Partitions[0].Leader) - 1
	nodeA, nodeB, nodeC := c.nodes[leader], c.nodes[(leader+1)%3], c.nodes[(leader+2)%3]

	nodeC.kill()
	sendMany(t, c.urls(), "orders", records)
	nodeA.stop(t, syscall.SIGTERM, drainTimeout)
	if err := os.RemoveAll(filepath.Join(nodeA.dataDir, "raft")); err != nil {
		t.Fatal(err)
	}
	nodeA.start(t)
	await(t, patience, "node A says what it waits for", func() (bool, string) {
		why := readyReasons(t, nodeA)
		return strings.Contains(why, "the metadata waits for a majority"), why
	})
	if nodeB.hasEnded() || nodeA.hasEnded() {
		t.Fatal("node A or B ended")
	}

	nodeC.start(t) // without a single one of the records
	nodeC.awaitReady(t)
	nodeA.awaitReady(t)
	got := []string{}
	urls := []string{nodeB.url(), nodeC.url()}
	readAll(t, urls, "orders", 0, func(r consumer.Record) { got = append(got, string(r.Value)) })
	if len(got) != records || got[0] != "record 0" || got[records-1] != fmt.Sprint("record ", records-1) {
		t.Fatalf("%d of %d acked records are left", len(got), records)
	}
	if offset := send(t, urls, "orders", "after").Offset; offset != records {
		t.Errorf("the next record got offset %d, want %d", offset, records)
	}
	for _, n := range c.nodes {
		if s := n.stderr.String(); strings.Contains(s, "panic") {
			t.Errorf("node %d panicked", n.id)
		}
	}
}

// readyReasons returns what a node answers to the question whether it is ready.
func readyReasons(t testing.TB, n *node) string {
	t.Helper()
	answer, err := http.Get("http://" + n.http + "/readyz")
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(answer.Body)
	if err := errors.Join(err, answer.Body.Close()); err != nil {
		return err.Error()
	}
	return string(body)
}

// hasEnded reports whether p has ended.
func (p *process) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// sendMany stores n records of one key and waits for the acks.
func sendMany(t testing.TB, servers []string, topic string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := producer.New(ctx, servers)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, n)
	for i := range n {
		p.SendAsync(ctx, producer.Record{Topic: topic, Key: []byte("key"), Value: fmt.Append(nil, "record ", i)},
			func(_ producer.Receipt, err error) {
				if err != nil {
					failed <- err
				}
			})
	}
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-failed:
		t.Fatalf("a record was not stored: %v", err)
	default:
	}
}
