package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/producer"
)

func TestThreeStartedNodesFormAClusterInAnyStartOrder(t *testing.T) {
	t.Parallel()
	for _, order := range [][]int{{1, 2, 3}, {3, 1, 2}} {
		t.Run(strings.Trim(fmt.Sprint(order), "[]"), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, "")
			for _, id := range order {
				c.nodes[id-1].start(t)
				if id != order[2] { // the next one only when this one listens and waits
					awaitHTTP(t, "http://"+c.nodes[id-1].http+"/livez", 200)
					awaitHTTP(t, "http://"+c.nodes[id-1].http+"/readyz", 503)
				}
			}
			c.awaitReady(t)
			for _, n := range c.nodes {
				wantOwnReadyFile(t, n)
				awaitHTTP(t, "http://"+n.http+"/readyz", 200)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			info, err := dial(t, c.nodes[0].url()).Admin().ClusterInfo(ctx)
			if err != nil || len(info.Nodes) != 3 || info.ClusterName != "e2e" {
				t.Fatalf("cluster info: %+v, %v", info, err)
			}
			c.stop(t)
		})
	}
}

// wantOwnReadyFile: a started node's ready file names itself only.
func wantOwnReadyFile(t *testing.T, n *node) {
	t.Helper()
	r := n.told
	if len(r.Servers) != 1 || r.Servers[0] != n.url() || len(r.HTTP) != 1 || r.HTTP[0] != "http://"+n.http || len(r.Raft) != 1 || r.Raft[0] != n.raft {
		t.Errorf("node %d's ready file has addresses %+v", n.id, r)
	}
	if len(r.Nodes) != 1 || r.Nodes[0].ID != uint64(n.id) || r.Nodes[0].PID != n.pid() || r.Nodes[0].DataDir != n.dataDir {
		t.Errorf("node %d's ready file has nodes %+v, pid is %d", n.id, r.Nodes, n.pid())
	}
}

func TestARestartedNodeRejoinsAndServesWhatItMissed(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "")
	createTopic(t, dial(t, c.urls()...), "orders", 1)
	send(t, c.urls(), "orders", "before")
	gone := c.nodes[2]
	gone.stop(t, syscall.SIGTERM, drainTimeout)
	send(t, c.urls(), "orders", "meanwhile")

	// A restart needs only a majority: node 1 stays away meanwhile.
	c.nodes[0].stop(t, syscall.SIGTERM, drainTimeout)
	gone.start(t)
	gone.awaitReady(t)
	got := []string{}
	readAll(t, []string{gone.url()}, "orders", 0, func(r consumer.Record) { got = append(got, string(r.Value)) })
	if strings.Join(got, " ") != "before meanwhile" {
		t.Errorf("read %q through the restarted node", got)
	}
	c.nodes[0].start(t)
	c.nodes[0].awaitReady(t)
	awaitSpread(t, dial(t, c.urls()...), "orders", 30*time.Second)
	c.stop(t)
}

// send stores one record and waits for the ack.
func send(t testing.TB, servers []string, topic, value string) producer.Receipt {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := producer.New(ctx, servers)
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := p.Send(ctx, producer.Record{Topic: topic, Key: []byte("key"), Value: []byte(value)})
	if err != nil {
		t.Fatalf("send %q to %s: %v", value, topic, err)
	}
	if err := p.Close(ctx); err != nil {
		t.Errorf("closing the producer: %v", err)
	}
	return receipt
}
