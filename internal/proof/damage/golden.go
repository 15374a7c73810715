package damage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"logbroker/internal/proof/testbed"
	"logbroker/internal/stall"
)

// watermarkMax is longer than a node takes to record how far its logs have come.
const watermarkMax = 3 * time.Second

// What makes the metadata take snapshots: more changes than they take one after.
const (
	altered     = "altered"
	setting     = "retention_bytes"
	alterations = 2200
	alterers    = 16
	// firstSetting is in force at the old copy, lastSetting in the end.
	firstSetting, lastSetting = "3GiB", "4GiB"
)

// golden is a filled cluster: every cell begins with a copy of its directories.
type golden struct {
	cluster *testbed.Cluster
	load    *testbed.Load
	dir     string
	shards  []uint64
}

// fill makes the cluster, and copies its directories twice: after the first part
// of the records (old), stopped in good order, and after the second one (now),
// killed.
func fill(ctx context.Context, o Options) (*golden, error) {
	stalls, err := stall.Measure(filepath.Join(o.Dir, "stall"))
	if err != nil {
		return nil, err
	}
	defer stalls.Stop()
	cluster, err := testbed.New(ctx, testbed.Options{
		Binary: o.Binary, Dir: o.Dir, Out: o.Out, Storage: "segment_bytes: 1MiB, scrub_interval: 1s, scrub_bytes_per_second: 0, min_free_bytes: 1MiB",
	})
	if err != nil {
		return nil, err
	}
	g := &golden{cluster: cluster, dir: o.Dir}
	if err := g.fill(ctx, stalls); err != nil {
		return nil, errors.Join(err, cluster.Close())
	}
	return g, nil
}

func (g *golden) fill(ctx context.Context, stalls *stall.Meter) error {
	if err := errors.Join(g.cluster.CreateTopic(ctx, topic, partitions, nil), g.cluster.CreateTopic(ctx, altered, 1, nil)); err != nil {
		return err
	}
	load, err := testbed.StartLoad(ctx, g.cluster.URLs(), testbed.LoadOptions{
		Topic: topic, Partitions: partitions, Producers: 2, Rate: rate, Window: 100, ValueBytes: valueBytes, Stalls: stalls,
	})
	if err != nil {
		return err
	}
	g.load = load
	if err := errors.Join(g.part(ctx, firstPart), g.alter(ctx, firstSetting)); err != nil {
		return err
	}
	if err := errors.Join(g.cluster.Stop(), g.copy("old")); err != nil {
		return err
	}
	if err := g.cluster.Heal(ctx); err != nil {
		return err
	}
	if err := errors.Join(g.part(ctx, secondPart), g.alter(ctx, lastSetting)); err != nil {
		return err
	}
	if err := load.Finish(); err != nil {
		return err
	}
	if g.shards, err = g.cluster.AwaitCaughtUp(ctx, topic, partitions); err != nil {
		return err
	}
	<-time.After(watermarkMax)
	for _, n := range g.cluster.Nodes {
		n.Kill()
	}
	return g.copy("now")
}

// part produces until each partition has so many acks more, and waits for the rest.
func (g *golden) part(ctx context.Context, acks int) error {
	g.load.SetRate(rate)
	g.load.Mark()
	if err := g.load.AwaitAcks(ctx, acks); err != nil {
		return err
	}
	g.load.SetRate(0)
	return g.load.AwaitQuiet(ctx)
}

// alter changes a topic so often that the metadata take a snapshot, and in the end
// to value.
func (g *golden) alter(ctx context.Context, value string) error {
	next := make(chan string, alterations)
	for i := range alterations {
		next <- fmt.Sprint(1<<30 + i)
	}
	close(next)
	errs := make([]error, alterers)
	var all sync.WaitGroup
	for w := range alterers {
		all.Go(func() {
			for v := range next {
				if errs[w] = g.cluster.AlterTopic(ctx, altered, map[string]string{setting: v}); errs[w] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := g.cluster.AlterTopic(ctx, altered, map[string]string{setting: value}); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, testbed.ReadyMax)
	defer cancel()
	return g.cluster.AwaitSetting(within, altered, setting, value)
}

func (g *golden) place(when string, n *testbed.Node) string {
	return filepath.Join(g.dir, when, fmt.Sprintf("node-%d", n.ID))
}

// copy keeps the nodes' directories.
func (g *golden) copy(when string) error {
	for _, n := range g.cluster.Nodes {
		if err := os.MkdirAll(g.place(when, n), 0o755); err != nil {
			return err
		}
		if err := copyDir(n.DataDir(), g.place(when, n)); err != nil {
			return err
		}
	}
	return nil
}

// back puts the kept directories in the nodes' place. No node may run.
func (g *golden) back() error {
	for _, n := range g.cluster.Nodes {
		if err := os.RemoveAll(n.DataDir()); err != nil {
			return err
		}
		if err := os.MkdirAll(n.DataDir(), 0o755); err != nil {
			return err
		}
		if err := copyDir(g.place("now", n), n.DataDir()); err != nil {
			return err
		}
	}
	return nil
}

// copyDir copies with cp, which keeps what is sparse so.
func copyDir(from, to string) error {
	if out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
		return fmt.Errorf("cp %s: %w: %s", from, err, out)
	}
	return nil
}
