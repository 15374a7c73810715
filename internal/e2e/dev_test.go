package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/internal/stall"
)

// devReadyMax is how soon dev must be ready by its own clock.
const devReadyMax = 3 * time.Second

// dev is a running `logbrokerd dev`.
type dev struct {
	*process
	told readyFile
}

// startDev runs dev with args and returns when it is ready.
func startDev(t testing.TB, args ...string) *dev {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ready.json")
	p := launchProcess(t, "dev", nil, logbrokerd(), append([]string{"dev", "--log.level=info", "--ready-file", file}, args...)...)
	return &dev{process: p, told: awaitReady(t, p, file, readyTimeout)}
}

// readyIn is what dev says of how long it took.
func (d *dev) readyIn(t testing.TB) time.Duration {
	t.Helper()
	pattern := regexp.MustCompile(`(?m)^ready in (\d+) ms$`)
	await(t, 5*time.Second, "dev says how soon it was ready", func() (bool, string) {
		return pattern.MatchString(d.stdout.String()), d.stdout.String()
	})
	ms, err := strconv.Atoi(pattern.FindStringSubmatch(d.stdout.String())[1])
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(ms) * time.Millisecond
}

// The median of three, without what the machine stood still: that is not dev's
// time.
func TestDevIsReadyInTime(t *testing.T) {
	t.Parallel()
	took := make([]time.Duration, 3)
	stalls := stall.Start(t)
	for i := range took {
		began := stalls.Mark()
		d := startDev(t, "--any-port", "--ephemeral")
		took[i] = d.readyIn(t) - stalls.Stood(began)
		d.stop(t, os.Interrupt, drainTimeout)
	}
	slices.Sort(took)
	t.Logf("dev ready in %v", took)
	if took[1] > devReadyMax {
		t.Errorf("dev was ready in %s (median), want at most %s", took[1], devReadyMax)
	}
}

func TestDevPrintsURLsThatAnswerAndCtrlCEndsIt(t *testing.T) {
	t.Parallel()
	d := startDev(t, "--any-port", "--ephemeral")
	createTopic(t, dial(t, d.told.Servers...), "orders", 1)
	urls := regexp.MustCompile(`http://[0-9.:]+`).FindAllString(d.stdout.String(), -1)
	if len(urls) != 3 || strings.Join(urls, " ") != strings.Join(d.told.HTTP, " ") {
		t.Fatalf("dev prints the URLs %v, its ready file has %v", urls, d.told.HTTP)
	}
	for _, url := range urls {
		for _, path := range []string{
			"livez", "readyz", "healthz", "metrics", "metrics/detailed", "version",
			"api/v1/cluster", "api/v1/cluster/health", "api/v1/nodes", "api/v1/topics", "api/v1/topics/orders", "api/v1/raft",
		} {
			if status, body, err := get(url + "/" + path); err != nil || status != 200 {
				t.Errorf("GET %s/%s: %d %v %s", url, path, status, err, body)
			}
		}
	}
	if len(d.told.Servers) != 3 || len(d.told.Raft) != 3 || len(d.told.Nodes) != 3 || d.told.Nodes[0].PID != d.pid() {
		t.Errorf("the ready file of dev is %+v, its pid %d", d.told, d.pid())
	}
	dir := filepath.Dir(d.told.Nodes[0].DataDir)
	d.stop(t, os.Interrupt, drainTimeout)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("--ephemeral left %s behind: %v", dir, err)
	}
}

func TestDevKeepsItsDataAlsoWhenEveryAddressChanges(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"one process", "processes"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			args := []string{"--any-port", "--data-dir", data}
			if mode == "processes" {
				args = append(args, "--processes")
			}
			first := startDev(t, args...)
			createTopic(t, dial(t, first.told.Servers...), "orders", 1)
			send(t, first.told.Servers, "orders", "kept")
			first.stop(t, syscall.SIGTERM, drainTimeout)

			second := startDev(t, args...)
			for i, url := range second.told.Servers {
				if url == first.told.Servers[i] {
					t.Logf("node %d has its address %s again", i+1, url)
				}
			}
			got := ""
			readAll(t, second.told.Servers[:1], "orders", 0, func(r consumer.Record) { got += string(r.Value) })
			if got != "kept" {
				t.Errorf("read %q after the restart", got)
			}
			send(t, second.told.Servers, "orders", "more")
			second.stop(t, syscall.SIGTERM, drainTimeout)
		})
	}
}

func TestSecondDevOnTheSamePortsNamesThePortAndTheWayOut(t *testing.T) {
	t.Parallel()
	base := freePorts(t, 40)
	args := []string{"dev", "--data-dir", filepath.Join(t.TempDir(), "data")}
	for i, key := range []string{"client", "nats_cluster", "raft", "http"} {
		args = append(args, fmt.Sprintf("--%s.listen=%s", key, loopback(base+10*i)))
	}
	first := startDev(t, args[1:]...)
	if want := "nats://" + loopback(base+2); first.told.Servers[2] != want {
		t.Errorf("node 3 of dev is at %s, want %s", first.told.Servers[2], want)
	}
	for _, mode := range []string{"one process", "processes"} {
		t.Run(mode, func(t *testing.T) {
			second := append([]string{}, args...)
			second[2] = filepath.Join(t.TempDir(), "other")
			if mode == "processes" {
				second = append(second, "--processes")
			}
			got := run(t, 5*time.Second, nil, logbrokerd(), second...)
			wantOneError(t, got, 1, strconv.Itoa(base), "--any-port")
		})
	}
	first.stop(t, syscall.SIGTERM, drainTimeout)
}
