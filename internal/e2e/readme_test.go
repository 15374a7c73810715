package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"logbroker/internal/stall"
)

// shellBlock is a ```sh block of README.md.
var shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```")

// readmeCommands returns every line of every sh block, long lines joined.
func readmeCommands(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands := []string{}
	for _, block := range shellBlock.FindAllStringSubmatch(string(raw), -1) {
		for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				commands = append(commands, line)
			}
		}
	}
	return commands
}

func TestEveryCommandOfTheREADMEWorks(t *testing.T) {
	t.Parallel()
	d := startDev(t, "--any-port", "--ephemeral")
	ran, dir := 0, t.TempDir()
	for _, command := range readmeCommands(t) {
		switch {
		case command == "go run ./cmd/logbrokerd dev", command == "go test ./...", strings.HasPrefix(command, "make "):
			continue // the first runs here, the second is what runs this, the third runs the second
		case strings.HasPrefix(command, "go run ./bench "):
			continue // package bench runs them, shortened
		}
		if !strings.Contains(command, "go run ./cmd/logbroker") {
			t.Errorf("README has a command that this test cannot run: %s", command)
			continue
		}
		runReadme(t, command, dir, d.told.Servers[0])
		ran++
	}
	if ran < 5 {
		t.Errorf("only %d commands found in README.md: did the blocks change their mark?", ran)
	}
	d.stop(t, syscallTerm, drainTimeout)
}

// runReadme runs a command line of the README with the built binaries.
func runReadme(t *testing.T, command, dir, server string) {
	t.Helper()
	line := strings.NewReplacer("go run ./cmd/logbrokerd", logbrokerd(), "go run ./cmd/logbroker", logbroker()+" --timeout "+patience.String()).Replace(command)
	shell := exec.CommandContext(t.Context(), "sh", "-c", line)
	shell.Dir, shell.Env = dir, cleanEnvironment("LOGBROKER_SERVER="+server)
	shell.WaitDelay = time.Second
	stalls := stall.Start(t)
	defer stalls.Stop()
	began := stalls.Mark()
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Errorf("%s\n%v\n%s", command, err, tail(string(out), 20))
	}
	if took := stalls.Since(began); took > 10*time.Second {
		t.Errorf("%s took %s", command, took)
	}
}
