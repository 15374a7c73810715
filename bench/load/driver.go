package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"logbroker/internal/cli"
)

// DriverMain is the main function of a process that measures one system on
// behalf of another: it reads a Spec as JSON from stdin (Defaults where it says
// nothing), runs it, and writes the Turn as JSON to stdout, also when it failed
// half-way. Notes, and the live line where stderr is a terminal, go to stderr.
//
// It returns the exit code: 0, 1 for an error, 2 for a Spec that is wrong. On
// SIGTERM and SIGINT it ends early with what was measured. Whoever starts it
// through procs.Start may die: it then gets SIGTERM, and so do the processes
// that the System has started through procs.Start when this one dies.
func DriverMain(sys System) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var progress Progress
	if cli.IsTerminal(os.Stderr) {
		progress = Live(os.Stderr)
		defer EndLive(os.Stderr)
	}
	err := drive(ctx, sys, os.Stdin, os.Stdout, progress)
	if err == nil {
		return cli.ExitOK
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	var coded *cli.ExitError
	if errors.As(err, &coded) {
		return coded.Code
	}
	return cli.ExitFailure
}

func drive(ctx context.Context, sys System, in io.Reader, out io.Writer, progress Progress) error {
	spec := Defaults()
	d := json.NewDecoder(in)
	d.DisallowUnknownFields()
	if err := d.Decode(&spec); err != nil {
		return cli.Usage("reading the spec from stdin: %w", err)
	}
	if err := spec.Validate(); err != nil {
		return cli.Usage("%w", err)
	}
	turn, err := RunTurn(ctx, sys, spec, progress)
	if encoding := json.NewEncoder(out).Encode(turn); err == nil && encoding != nil {
		err = fmt.Errorf("writing the turn to stdout: %w", encoding)
	}
	return err
}
