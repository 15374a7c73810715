package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"logbroker/bench/ceiling"
	"logbroker/bench/load"
	"logbroker/bench/procs"
	"logbroker/internal/buildinfo"
	"logbroker/internal/cli"
)

// newDocument says what is run, where and when.
func newDocument(cmd *cobra.Command, command string) *load.Document {
	info := buildinfo.Read()
	d := &load.Document{
		Format: load.DocumentFormat, Command: command, Args: os.Args[1:], At: time.Now(),
		GitRef: info.Revision, Version: info.Version, Machine: procs.ReadMachine(),
	}
	d.Host, _ = os.Hostname() // stays empty
	if checkout, err := procs.Checkout(); err == nil {
		d.GitRef = procs.GitRef(cmd.Context(), checkout)
	}
	return d
}

// runOne runs a command that is one turn: notes, progress, results, files.
func (f *flags) runOne(cmd *cobra.Command, spec load.Spec) error {
	d := newDocument(cmd, cmd.Name())
	stderr := cmd.ErrOrStderr()
	printMachine(stderr, d)
	if err := f.measureCeiling(cmd, d, spec); err != nil {
		return err
	}
	turn, err := f.runTurn(cmd, spec)
	if turn.Interrupted && len(turn.Phases) == 0 && err == nil {
		err = errors.New("interrupted before anything was measured")
	}
	if len(turn.Phases) > 0 {
		d.Add(turn)
		err = errors.Join(err, f.files.write(cmd, d, d), printTurn(cmd.OutOrStdout(), stderr, &turn), failures(&turn))
	}
	return err
}

// measureCeiling measures this machine by itself, for d. With --server the disk
// that counts is another one.
func (f *flags) measureCeiling(cmd *cobra.Command, d *load.Document, spec load.Spec) error {
	if !f.ceiling || len(f.servers) > 0 {
		return nil
	}
	c, err := ceiling.Measure(cmd.Context(), f.dir, spec)
	if err != nil {
		return err
	}
	d.Ceiling = c
	printCeiling(cmd.ErrOrStderr(), c)
	return nil
}

// runTurn runs spec on logbroker, in a directory that is removed at the end.
func (f *flags) runTurn(cmd *cobra.Command, spec load.Spec) (load.Turn, error) {
	dir, err := os.MkdirTemp(f.dir, "logbroker-bench-")
	if err != nil {
		return load.Turn{}, cli.Usage("cannot make a data directory: %w; name a place with --dir", err)
	}
	spec.Dir = dir
	stopProfile, err := f.files.profile()
	if err != nil {
		return load.Turn{}, errors.Join(err, os.Remove(dir))
	}
	var progress load.Progress
	stderr := cmd.ErrOrStderr()
	if cli.IsTerminal(stderr) {
		progress = load.Live(stderr)
	}
	turn, err := load.RunTurn(cmd.Context(), newSystem(), spec, progress)
	err = errors.Join(err, stopProfile())
	if progress != nil {
		load.EndLive(stderr)
	}
	if removing := os.RemoveAll(dir); err == nil && removing != nil {
		err = fmt.Errorf("the data is left behind: %w", removing)
	}
	return turn, tell(err)
}

// tell adds what to do to errors that the tool knows more about.
func tell(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w; is the cluster healthy? logbroker cluster health says", err)
	}
	return err
}
