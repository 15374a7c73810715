package main

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/protocol"
)

// healthAttempt bounds one look at the cluster's health while watching, so that
// a cluster that hangs is seen soon and does not use up the whole --timeout.
const healthAttempt = 3 * time.Second

func newHealth(a *app) *cobra.Command {
	var watch, exitWhenHealthy bool
	cmd := &cobra.Command{
		Use: "health", Short: "Say whether every node answers and every partition has a leader and all replicas",
		Long: "Say whether every node answers and every partition has a leader and all replicas.\n" +
			"Exits 0 when healthy and 3 when not, a cluster that cannot be reached included.",
		Example: "  logbroker cluster health\n  logbroker cluster health -w -e --timeout 30s   # wait until healthy, 3 after 30 s",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := a.connection()
			if err != nil {
				return err
			}
			h := &healthWatch{app: a, conn: conn}
			defer h.close()
			switch {
			case watch && exitWhenHealthy:
				return h.untilHealthy(cmd.Context())
			case watch:
				return h.forever(cmd.Context())
			}
			return h.once(cmd.Context())
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "print again whenever it changes")
	cmd.Flags().BoolVarP(&exitWhenHealthy, "exit-when-healthy", "e", false, "with -w: end with 0 when healthy, with 3 after --timeout")
	return cmd
}

// healthWatch looks at the health again and again, through connections that
// come and go.
type healthWatch struct {
	app  *app
	conn connection
	b    backend // nil while there is no connection
}

func (h *healthWatch) close() {
	if h.b != nil {
		h.b.Close()
	}
}

// look asks for the health. What keeps it from being known is a reason to be
// unhealthy.
func (h *healthWatch) look(ctx context.Context, limit time.Duration) *protocol.ClusterHealth {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	health, err := h.ask(ctx)
	if err != nil {
		health = &protocol.ClusterHealth{Reasons: []string{explain(err).Error()}}
	}
	return health
}

func (h *healthWatch) ask(ctx context.Context) (*protocol.ClusterHealth, error) {
	if h.b == nil {
		b, err := h.app.dial(ctx, h.conn)
		if err != nil {
			return nil, err
		}
		h.b = b
	}
	return h.b.ClusterHealth(ctx)
}

func (h *healthWatch) once(ctx context.Context) error {
	health := h.look(ctx, h.app.globals.timeout)
	if err := h.app.emit(health, showHealth(health)); err != nil {
		return err
	}
	return verdict(health)
}

// untilHealthy waits for health, prints the last state, and says on stderr what
// it is waiting for.
func (h *healthWatch) untilHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.app.globals.timeout)
	defer cancel()
	var last *protocol.ClusterHealth
	for {
		health := h.look(ctx, healthAttempt)
		expired := ctx.Err() != nil
		if expired && last != nil && !health.Healthy {
			health = last // what was cut short says nothing about the cluster
		}
		if health.Healthy || expired || !h.app.pause(ctx) {
			if err := h.app.emit(health, showHealth(health)); err != nil {
				return err
			}
			return verdict(health)
		}
		if last == nil || !reflect.DeepEqual(last, health) {
			h.app.note("waiting: %s", strings.Join(health.Reasons, "; "))
		}
		last = health
	}
}

// forever prints every change until it is interrupted.
func (h *healthWatch) forever(ctx context.Context) error {
	var last *protocol.ClusterHealth
	for {
		health := h.look(ctx, min(h.app.globals.timeout, healthAttempt))
		if isEnded(ctx) {
			return nil
		}
		if last == nil || !reflect.DeepEqual(last, health) {
			if err := h.app.emitEach(health, showHealth(health)); err != nil {
				return err
			}
		}
		last = health
		if !h.app.pause(ctx) {
			return nil
		}
	}
}

// pause waits until the next look; false when ctx has ended.
func (a *app) pause(ctx context.Context) bool {
	t := time.NewTimer(a.watchEvery)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func verdict(h *protocol.ClusterHealth) error {
	if h.Healthy {
		return nil
	}
	return &cli.ExitError{Code: cli.ExitUnhealthy}
}

func showHealth(h *protocol.ClusterHealth) func(*table) {
	return func(t *table) {
		if h.Healthy {
			t.printf("%s\n", t.app.paint(green, "healthy"))
			return
		}
		t.printf("%s\n", t.app.paint(red, "unhealthy"))
		for _, reason := range h.Reasons {
			t.printf("  %s\n", reason)
		}
		t.names("leaderless", h.Leaderless)
		t.names("under-replicated", h.UnderReplicated)
	}
}

// namesMax is how many partitions the table names; -o wide and json name all.
const namesMax = 20

func (t *table) names(what string, names []string) {
	if len(names) == 0 {
		return
	}
	more := ""
	if len(names) > namesMax && !t.wide {
		names, more = names[:namesMax], " …"
	}
	t.printf("  %s: %s%s\n", what, strings.Join(names, ", "), more)
}

// watch calls look until ctx ends, and show when what it returned has changed.
// A look that fails is noted and tried again, unless what is looked at does not
// exist.
func watch[T any](ctx context.Context, a *app, look func(context.Context) (T, error), show func(T) error) error {
	var last *T
	noted := ""
	for {
		now, err := look(ctx)
		if isEnded(ctx) {
			return nil
		}
		err = explain(err)
		var coded *cli.ExitError
		switch {
		case errors.As(err, &coded) && coded.Code != cli.ExitFailure:
			return err
		case err != nil:
			if noted != err.Error() {
				noted = err.Error()
				a.note("still watching: %s", noted)
			}
		case last == nil || !reflect.DeepEqual(*last, now):
			if err := show(now); err != nil {
				return err
			}
			last, noted = &now, ""
		}
		if !a.pause(ctx) {
			return nil
		}
	}
}
