package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
)

func root(run func(*cobra.Command) error) *cobra.Command {
	act := &cobra.Command{Use: "act", Short: "act", Args: Args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd) }}
	act.Flags().Int("count", 0, "")
	return Group("tool", "a tool", Group("noun", "a noun", act))
}

func TestRunMapsErrorsToExitCodes(t *testing.T) {
	for _, c := range []struct {
		args string
		err  error
		code int
		note string
	}{
		{args: "noun act", code: ExitOK},
		{args: "", code: ExitOK},
		{args: "noun", code: ExitOK},
		{args: "help", code: ExitOK},
		{args: "help noun act", code: ExitOK},
		{args: "completion bash", code: ExitOK},
		{args: "noun act", err: errors.New("broken"), code: ExitFailure, note: "error: broken\n"},
		{args: "noun act", err: fmt.Errorf("writing: %w", ErrOutputClosed), code: ExitOK},
		{args: "noun act", err: &ExitError{Code: ExitUnhealthy}, code: ExitUnhealthy},
		{args: "noun act", err: NotBuilt("this"), code: ExitUsage, note: "this is not built yet"},
		{args: "noun act extra", code: ExitUsage, note: "see tool noun act --help"},
		{args: "noun act --nope", code: ExitUsage, note: "unknown flag"},
		{args: "noun act --count x", code: ExitUsage, note: "invalid argument"},
		{args: "nuon", code: ExitUsage, note: "did you mean noun?"},
		{args: "noun atc", code: ExitUsage, note: "did you mean act?"},
		{args: "other", code: ExitUsage, note: `unknown command "other"`},
		{args: "help other", code: ExitUsage, note: "no help about"},
		{args: "completion tcsh", code: ExitUsage, note: "unknown command"},
		{args: "completion bash extra", code: ExitUsage},
	} {
		var stdout, stderr bytes.Buffer
		code := Run(root(func(*cobra.Command) error { return c.err }), strings.Fields(c.args), &stdout, &stderr)
		if code != c.code || !strings.Contains(stderr.String(), c.note) || code == ExitOK && stderr.Len() > 0 {
			t.Errorf("%q, %v: exit %d, stderr %q", c.args, c.err, code, stderr.String())
		}
	}
}

func TestAnInterruptEndsTheContext(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := Run(root(func(cmd *cobra.Command) error {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		<-cmd.Context().Done()
		return nil
	}), []string{"noun", "act"}, &stdout, &stderr)
	if code != ExitOK {
		t.Fatal(code, stderr.String())
	}
}

func TestOutputKnowsThatNobodyReads(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := (Output{w}).Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := (Output{w}).Write([]byte("x")); !errors.Is(err, ErrOutputClosed) {
		t.Fatal(err)
	}
	if IsTerminal(Output{w}) || IsTerminal(&bytes.Buffer{}) {
		t.Fatal("a pipe is not a terminal")
	}
}
