package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"logbroker/bench/load"
)

// binaries is where TestMain puts the two binaries.
var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "logbroker-bench-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot make a directory for the binaries:", err)
		os.Exit(1)
	}
	binaries = dir
	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir, "logbroker/bench", "logbroker/cmd/logbrokerd")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// bench returns the command `bench args…`, which starts the broker built here.
func bench(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	args = append(args, "--ceiling=false", "--broker", filepath.Join(binaries, "logbrokerd"), "--dir", t.TempDir())
	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "bench"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	return cmd
}

func TestBenchMeasuresABrokerEndToEnd(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "result.json")
	cmd := bench(t, "produce", "--in-process", "--embedded", "1", "--partitions", "2", "--duration", "1s", "--warmup", "200ms",
		"--record-size", "256", "--payload", "json", "--then", "consume", "--json", file)
	var notes strings.Builder
	cmd.Stderr = &notes
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, notes.String())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], " records sent, ") || !strings.HasSuffix(lines[0], " ms 99.9th.") || !strings.Contains(lines[1], " records received, ") {
		t.Errorf("stdout is not Kafka's line for each phase:\n%s", out)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var d load.Document
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	if d.Format != load.DocumentFormat || d.Command != "produce" || d.Host == "" || d.Machine.Cores < 1 || d.Replicas != 1 || d.Durability == "" || len(d.Turns) != 1 {
		t.Fatalf("%+v", d)
	}
	turn := d.Turns[0]
	if turn.Settings["replicas"] != "1" || turn.Settings["linger"] != "adaptive" || turn.Spec.RecordSize != 256 || turn.Spec.Partitions != 2 {
		t.Errorf("settings %v, spec %+v", turn.Settings, turn.Spec)
	}
	produced, consumed := turn.Phases[0], turn.Phases[1]
	if produced.Records < 10 || produced.P50Ms <= 0 || produced.Errors != 0 || produced.CPUSeconds <= 0 || len(produced.PerProcess) != 1 || produced.RSSBytesMax < 1<<20 {
		t.Errorf("%+v", produced)
	}
	if consumed.Records < produced.Records {
		t.Errorf("%d records read, but %d were produced", consumed.Records, produced.Records)
	}
}

func TestInterruptEndsABenchWithItsResult(t *testing.T) {
	t.Parallel()
	cmd := bench(t, "e2e", "--in-process", "--embedded", "1", "--partitions", "1", "--duration", "1h", "--warmup", "0s", "--target-rate", "500", "--json", "-")
	ready := filepath.Join(cmd.Args[len(cmd.Args)-1], "logbroker-bench-*", "ready.json")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitPID(t, ready)
	written := filepath.Join(filepath.Dir(filepath.Dir(ready)), "logbroker-bench-*", "data")
	await(t, "records in a segment", func() bool { return dataBytes(written) > 64<<10 })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var d load.Document
	decoder := json.NewDecoder(stdout)
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(io.MultiReader(decoder.Buffered(), stdout)); err != nil || !strings.Contains(string(rest), " records received, ") {
		t.Errorf("%v, after the JSON: %q", err, rest)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if len(d.Turns) != 1 || !d.Turns[0].Interrupted || d.Turns[0].Phases[0].Records == 0 {
		t.Errorf("%+v", d.Turns)
	}
	if left, _ := filepath.Glob(filepath.Dir(ready)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// dataBytes is the size of all segment files of a data directory.
func dataBytes(dir string) int64 {
	files, _ := filepath.Glob(filepath.Join(dir, "*", "partitions", "*", "log-*", "*.log"))
	sum := int64(0)
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

func TestBrokersDieWithABenchThatIsKilled(t *testing.T) {
	t.Parallel()
	cmd := bench(t, "produce", "--embedded", "1", "--partitions", "1", "--duration", "1h")
	ready := filepath.Join(cmd.Args[len(cmd.Args)-1], "logbroker-bench-*", "ready.json")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := awaitPID(t, ready)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	await(t, "the broker has ended", func() bool { return gone(pid) })
}

// readmeLine is a command of README.md that this package has to run.
var readmeLine = regexp.MustCompile(`(?m)^go run \./bench (.*)$`)

func TestEveryBenchCommandOfTheREADMEWorks(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands := readmeLine.FindAllStringSubmatch(string(raw), -1)
	if len(commands) < 3 {
		t.Errorf("%d commands found in README.md: did they change their form?", len(commands))
	}
	for _, m := range commands {
		if strings.HasPrefix(m[1], "compare") || strings.HasPrefix(m[1], "report") {
			continue // minutes, and needs what package bench/peers builds; what compare writes
		}
		// The last flag of a kind wins, so these shorten the run.
		args := append(strings.Fields(m[1]), "--in-process", "--embedded", "1", "--duration", "500ms", "--warmup", "0s")
		if args[0] == "sweep" {
			args = append(args, "--values", "1", "--rounds", "1")
		}
		if out, err := bench(t, args...).CombinedOutput(); err != nil {
			t.Errorf("%s\n%v\n%s", m[0], err, out)
		}
	}
}

// gone reports whether a process has ended; it may be a zombie whose parent was
// killed too.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// awaitPID returns the process id of the first node of the ready file that
// matches pattern.
func awaitPID(t *testing.T, pattern string) int {
	t.Helper()
	c := &cluster{}
	await(t, "the brokers are ready", func() bool {
		files, err := filepath.Glob(pattern)
		return err == nil && len(files) == 1 && c.readReady(files[0])
	})
	return c.pids[0]
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within two minutes: %s", what)
		case <-ticker.C:
		}
	}
}
