package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"logbroker/bench/load"
)

// TestBrokersDieWithADriverThatIsKilled: kill -9 leaves a driver no time to stop
// what it has started.
func TestBrokersDieWithADriverThatIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three broker processes")
	}
	for _, system := range []string{"jetstream", "dragonboat"} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			spec := load.Defaults()
			spec.Partitions, spec.Duration, spec.Dir = 3, 3600, t.TempDir()
			in, err := json.Marshal(spec)
			if err != nil {
				t.Fatal(err)
			}
			driver := exec.Command(os.Args[0], system)
			driver.Stdin = bytes.NewReader(in)
			if err := driver.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = driver.Process.Kill() }) // where the test failed before
			var brokers []int
			await(t, "three brokers", func() bool {
				brokers = childrenOf(driver.Process.Pid)
				return len(brokers) == 3
			})
			if err := driver.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = driver.Wait() // it was killed
			for _, pid := range brokers {
				await(t, fmt.Sprintf("the end of broker %d", pid), func() bool { state, _ := stat(pid); return state == "" || state == "Z" })
			}
		})
	}
}

// childrenOf are the processes whose parent is pid.
func childrenOf(pid int) []int {
	var children []int
	names, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for _, name := range names {
		child, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		if _, parent := stat(child); parent == pid {
			children = append(children, child)
		}
	}
	return children
}

// stat is a process's state and parent; "" where it has ended.
func stat(pid int) (state string, parent int) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	_, err = fmt.Sscan(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), &state, &parent)
	if err != nil {
		return "", 0
	}
	return state, parent
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("not within two minutes: %s", what)
		case <-ticker.C:
		}
	}
}
