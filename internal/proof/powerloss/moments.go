package powerloss

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"logbroker/internal/proof/testbed"
)

// moment is what the nodes are doing when the power goes.
type moment struct {
	name string
	// await returns at the moment, with what it saw for people.
	await func(ctx context.Context, r *run, c cycle) (string, error)
}

func moments() []moment {
	return []moment{
		{"idle", awaitIdle},
		{"producing", func(ctx context.Context, _ *run, c cycle) (string, error) { return "", testbed.Wait(ctx, c.after) }},
		{"rolling a segment", func(ctx context.Context, r *run, c cycle) (string, error) {
			return r.awaitFile(ctx, c, func(name string) bool { return strings.HasSuffix(name, ".log") })
		}},
		{"snapshotting", func(ctx context.Context, r *run, c cycle) (string, error) {
			return r.awaitFile(ctx, c, func(name string) bool { return strings.HasPrefix(name, "marker") })
		}},
	}
}

// awaitIdle stops sending and lets the last acks come in.
func awaitIdle(ctx context.Context, r *run, c cycle) (string, error) {
	r.load.SetRate(0)
	return "", testbed.Wait(ctx, c.after+200*time.Millisecond)
}

// awaitFile returns as soon as one of the nodes makes a file that fits in one of
// its replicas' directories, or writes its marker.
func (r *run) awaitFile(ctx context.Context, c cycle, fits func(name string) bool) (string, error) {
	w, err := newWatch()
	if err != nil {
		return "", err
	}
	defer w.close()
	for _, at := range c.nodes {
		dirs, err := filepath.Glob(filepath.Join(r.cluster.Nodes[at].DataDir(), "partitions", "*"))
		if err != nil {
			return "", err
		}
		logs, err := filepath.Glob(filepath.Join(r.cluster.Nodes[at].DataDir(), "partitions", "*", "log-*"))
		if err != nil {
			return "", err
		}
		for _, dir := range dirs { // of what lies in it the marker alone is written in place
			if err := w.add(dir, created|written); err != nil {
				return "", err
			}
		}
		for _, dir := range logs {
			if err := w.add(dir, created); err != nil {
				return "", err
			}
		}
	}
	name, err := w.await(ctx, fits)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(" (%s)", name), nil
}
