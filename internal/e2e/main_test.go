package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// buildTimeout bounds the building of both binaries from a cold cache.
const buildTimeout = 5 * time.Minute

// binaries is where TestMain puts the two binaries.
var binaries string

func logbrokerd() string { return filepath.Join(binaries, "logbrokerd") }
func logbroker() string  { return filepath.Join(binaries, "logbroker") }

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == memberCommand {
		os.Exit(memberMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == historyCommand {
		os.Exit(historyMemberMain(os.Args[2:]))
	}
	flag.Parse()
	waitTogether()
	os.Exit(buildAndRun(m))
}

// atOnce is how many tests run at once, unless -parallel says otherwise. They
// mostly wait for elections and timers, so more than there are cores may; many
// more would spoil the times that some of them measure.
const atOnce = "4"

func waitTogether() {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", atOnce) // a flag that exists and a number
	}
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "logbroker-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot make a directory for the binaries:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries = dir
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	// Not built for the race detector, even when the tests are: the processes
	// have to keep their times.
	build := exec.CommandContext(ctx, "go", "build", "-o", dir, "logbroker/cmd/logbrokerd", "logbroker/cmd/logbroker")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	launcher.start()
	defer launcher.stop()
	return m.Run()
}

// launcher starts processes on one thread that lives as long as the tests, so
// that the kernel can end them when the tests die (Pdeathsig is bound to the
// starting thread).
var launcher launch

type launch struct{ work chan func() }

func (l *launch) start() {
	l.work = make(chan func())
	go func() { // ends with stop
		runtime.LockOSThread()
		for f := range l.work {
			f()
		}
	}()
}

func (l *launch) stop() { close(l.work) }

func (l *launch) run(cmd *exec.Cmd) error {
	started := make(chan error)
	l.work <- func() { started <- cmd.Start() }
	return <-started
}
