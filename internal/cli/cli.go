// Package cli is what logbroker's two command lines share: exit codes, errors
// that become them, and the habits of every command (unknown subcommands and
// flags are errors, stdout is data, stderr is notes). It holds no command.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes.
const (
	ExitOK        = 0
	ExitFailure   = 1
	ExitUsage     = 2
	ExitUnhealthy = 3 // unhealthy, or not found
)

// ExitError is an error with an exit code of its own. Err nil prints nothing.
type ExitError struct {
	Code int
	Err  error
}

// Error returns the cause's text.
func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// Usage returns an error that exits with ExitUsage.
func Usage(format string, args ...any) error {
	return &ExitError{Code: ExitUsage, Err: fmt.Errorf(format, args...)}
}

// NotBuilt says that a command or setting is not there yet (ExitUsage).
func NotBuilt(what string) error { return Usage("%s is not built yet", what) }

// Args wraps a cobra argument check so that its failure exits with ExitUsage.
func Args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return Usage("%w; see %s --help", err, cmd.CommandPath())
		}
		return nil
	}
}

// Group returns a command that only has subcommands: alone it prints its help,
// with an unknown subcommand it fails.
func Group(use, short string, subcommands ...*cobra.Command) *cobra.Command {
	// Without ArbitraryArgs cobra would refuse them for a root in its own words.
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return unknown(cmd, args[0])
	}
	cmd.AddCommand(subcommands...)
	return cmd
}

func unknown(cmd *cobra.Command, name string) error {
	cmd.SuggestionsMinimumDistance = suggestionsDistance
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		return Usage("unknown command %q for %q; did you mean %s?", name, cmd.CommandPath(), strings.Join(near, " or "))
	}
	return Usage("unknown command %q for %q; see %s --help", name, cmd.CommandPath(), cmd.CommandPath())
}

// suggestionsDistance is how many letters a name may be off to be suggested.
const suggestionsDistance = 2

// strict makes cobra's own commands, help and completion, refuse what they do
// not know like every other command.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Run = nil
			cmd.RunE = func(_ *cobra.Command, args []string) error {
				about, rest, err := root.Find(args)
				if err != nil || len(rest) > 0 {
					return Usage("there is no help about %q; see %s --help", strings.Join(args, " "), root.CommandPath())
				}
				return about.Help()
			}
		case "completion":
			group := Group(cmd.Use, cmd.Short)
			cmd.Args, cmd.RunE = group.Args, group.RunE
			for _, shell := range cmd.Commands() {
				shell.Args = Args(cobra.NoArgs)
			}
		}
	}
}

// Run executes root with args and returns the exit code. SIGINT and SIGTERM end
// the context of the command; a second one ends the process as usual.
func Run(root *cobra.Command, args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() { // ends with the process, or with stop
		<-ctx.Done()
		stop()
	}()
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return Usage("%w; see %s --help", err, cmd.CommandPath())
	})
	strict(root)
	err := root.ExecuteContext(ctx)
	if err == nil || errors.Is(err, ErrOutputClosed) {
		return ExitOK
	}
	var coded *ExitError
	if !errors.As(err, &coded) {
		coded = &ExitError{Code: ExitFailure, Err: err}
	}
	if coded.Err != nil {
		fmt.Fprintf(stderr, "error: %v\n", coded.Err)
	}
	return coded.Code
}

// ErrOutputClosed says that whoever read the output has gone, as in
// `… | head -1`. Run takes it as a success and says nothing.
var ErrOutputClosed = errors.New("the output is closed")

// Output is a standard stream whose writes fail with ErrOutputClosed once
// nobody reads any more. For stdout that needs SIGPIPE to be ignored, or the
// signal ends the process first.
type Output struct{ *os.File }

// Write writes p. Errors: ErrOutputClosed, the file's.
func (o Output) Write(p []byte) (int, error) {
	n, err := o.File.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		err = ErrOutputClosed
	}
	return n, err
}

// IsTerminal reports whether stream, an *os.File or an Output, is a terminal:
// only then colours and progress are shown, and questions asked.
func IsTerminal(stream any) bool {
	if o, ok := stream.(Output); ok {
		stream = o.File
	}
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
