package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"logbroker/broker"
	"logbroker/config"
	"logbroker/internal/client"
	"logbroker/producer"
)

func TestALaterNodeJoinsServesAndHoldsReplicas(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	c.CreateTopic("before", 3, 3, nil)
	// The seed does not lead the metadata: it has to pass the newcomer on.
	if err := c.Join(4, c.MetadataLeader()%3+1, nil); err != nil {
		t.Fatal(err)
	}
	// Its own image answers, and clients that know nothing but it get through.
	only, err := client.Dial(within(t, waitTimeout), []string{c.Info(4).ClientURL}, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer only.Close()
	meta, err := only.Metadata(within(t, waitTimeout))
	if err != nil || len(meta.Nodes) != 4 || len(meta.Topics) != 1 {
		t.Fatalf("metadata through the new node: %+v, %v", meta, err)
	}
	c.WaitHealthy()
	topic := c.CreateTopic("after", 8, 3, nil)
	held := 0
	for _, p := range topic.Partitions {
		if slices.Contains(p.Replicas, 4) {
			held++
		}
	}
	if held == 0 {
		t.Errorf("the new node holds none of the new topic's replicas: %+v", topic.Partitions)
	}
	c.WaitFor("the new node leads its share", func() bool { led, even := c.spread("after"); return even && led[4] > 0 })
	p, err := producer.New(within(t, waitTimeout), []string{c.Info(4).ClientURL})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(within(t, waitTimeout))
	for i := range 80 {
		for name, partitions := range map[string]int32{"before": 3, "after": 8} {
			partition := int32(i) % partitions
			if _, err := p.Send(within(t, waitTimeout), producer.Record{Topic: name, Partition: &partition, Value: fmt.Append(nil, i)}); err != nil {
				t.Fatalf("%s/%d through the new node: %v", name, partition, err)
			}
		}
	}
	c.Stop(4)
	c.Restart(4)
	c.WaitHealthy()
	read := 0
	for partition := range int32(8) {
		read += len(c.readAll("after", partition))
	}
	if read != 80 {
		t.Errorf("%d records are read back, want 80", read)
	}
}

// refusedToStart starts a broker that must not come up, and returns why it was
// refused, or could not start within some time.
func (c *Cluster) refusedToStart(configure func(*config.Config), within time.Duration) string {
	c.tb.Helper()
	f := c.baseConfig(9)
	configure(&f)
	b, err := broker.New(broker.Options{Config: f, Logger: c.logger})
	if err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	err = b.Start(ctx)
	ctx, cancel = context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if stopErr := b.Stop(ctx); stopErr != nil {
		c.tb.Errorf("stop of the refused node: %v", stopErr)
	}
	if err == nil {
		c.tb.Error("the node started")
		return ""
	}
	return err.Error()
}

func TestNodesThatDoNotBelongAreRefused(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quietLeaders})
	if err := c.Join(4, 1, nil); err != nil {
		t.Fatal(err)
	}
	seed := c.Info(1).RaftAddr
	for _, r := range []struct {
		name      string
		configure func(*config.Config)
		want      string
	}{
		{"the id of a founder", func(f *config.Config) { f.Cluster.NodeID, f.Cluster.Seeds = 2, []string{seed} }, "never used"},
		{"the id of a later node", func(f *config.Config) { f.Cluster.NodeID, f.Cluster.Seeds = 4, []string{seed} }, "never used"},
		{"another cluster's name", func(f *config.Config) { f.Cluster.Name, f.Cluster.Seeds = "other", []string{seed} }, "cluster.name"},
		{"a seed where nobody is", func(f *config.Config) { f.Cluster.Seeds = []string{"127.0.0.1:1"} }, "127.0.0.1:1"},
		{"a founder of a cluster that is founded", func(f *config.Config) { f.Cluster.Founders = []string{seed} }, "cluster.seeds"},
		{"a directory in use", func(f *config.Config) { f.Cluster.NodeID, f.Storage.DataDir = 1, c.DataDir(1) }, "another process"},
	} {
		t.Run(r.name, func(t *testing.T) {
			why := ""
			// A node asks again until its time is up, and says what it was answered
			// last: that may be that the metadata is electing.
			for within := time.Second; within < waitTimeout && !strings.Contains(why, r.want); within *= 2 {
				dir := t.TempDir()
				why = c.refusedToStart(func(f *config.Config) {
					f.Storage.DataDir = dir
					r.configure(f)
				}, within)
			}
			if !strings.Contains(why, r.want) || strings.Contains(why, "\n") {
				t.Errorf("refused with %q; want one line with %q", why, r.want)
			}
		})
	}
	c.WaitHealthy()
}
