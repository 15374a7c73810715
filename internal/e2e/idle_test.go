package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What an idle cluster of three nodes in one process may cost. The figures
// wanted are 5 % and 400 MiB; the machine that runs the tests does other things.
const (
	idleFor      = 5 * time.Second
	idleTries    = 3    // an election on a busy machine is not idle
	idleCPUMax   = 0.10 // of one core
	idleRSSMax   = 400  // MiB
	ticksASecond = 100  // USER_HZ, on every Linux
)

func TestIdleDevCostsLittle(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 s")
	}
	t.Parallel()
	d := startDev(t, "--any-port", "--ephemeral")
	createTopic(t, dial(t, d.told.Servers...), "orders", 6)
	awaitSpread(t, dial(t, d.told.Servers...), "orders", 20*time.Second)
	share := 1.0
	for range idleTries {
		before, began := cpuSeconds(t, d.pid()), time.Now()
		<-time.After(idleFor)
		share = min(share, (cpuSeconds(t, d.pid())-before)/time.Since(began).Seconds())
		if share <= idleCPUMax {
			break
		}
	}
	rss := residentMiB(t, d.pid())
	t.Logf("idle dev with 6 partitions: %.1f %% of a core, %d MiB", 100*share, rss)
	if share > idleCPUMax || rss > idleRSSMax {
		t.Errorf("idle dev takes %.1f %% of a core and %d MiB, at most %.0f %% and %d MiB", 100*share, rss, 100*idleCPUMax, idleRSSMax)
	}
}

// cpuSeconds is the user and system time a process has used.
// Source: proc_pid_stat(5), fields 14 and 15.
func cpuSeconds(t testing.TB, pid int) float64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		t.Fatalf("cannot read %q", raw)
	}
	return float64(user+system) / ticksASecond
}

// residentMiB is a process' resident memory. Source: proc_pid_statm(5).
func residentMiB(t testing.TB, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(raw))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize() >> 20
}
