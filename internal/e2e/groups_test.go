package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"logbroker/internal/client"
)

const (
	groupPartitions = 12
	// movedMax is what a hand-over may take beyond the session time-out of a
	// member that was killed, or from the moment a member is asked to stop.
	movedMax = time.Second
	// undisturbedMax is how long a member may be given nothing while others come
	// and go.
	undisturbedMax = 200 * time.Millisecond
	// groupBurst is 2,000 records a second: all of it goes through pipes.
	groupBurst = 10
)

// startConsuming runs `topic consume -g` and writes down what it prints.
func startConsuming(t testing.TB, l *ledger, server, group, topic, name string) *process {
	t.Helper()
	heard := &lines{each: func(line string) {
		var partition int32
		var offset int64
		if _, err := fmt.Sscanf(line, "%d %d", &partition, &offset); err != nil {
			t.Errorf("%s prints %q: %v", name, line, err)
			return
		}
		l.add(name, partition, offset)
	}}
	return launchHeard(t, name, nil, heard, logbroker(), "--server", server, "topic", "consume", topic, "-g", group, "-f", `%p %o\n`)
}

func TestThreeProcessesShareAGroupAndTakeOverFromEachOther(t *testing.T) {
	t.Parallel()
	c := startCluster(t, groupSettings)
	admin, server, l := dial(t, c.urls()...), strings.Join(c.urls(), ","), &ledger{}
	createTopic(t, admin, "events", groupPartitions)
	awaitSpread(t, admin, "events", spreadMax)
	load := startLoadOf(t, c.urls(), "events", groupBurst)

	began := time.Now()
	processes := map[string]*process{}
	for _, name := range []string{"one", "two", "three"} {
		processes[name] = startConsuming(t, l, server, "g", "events", name)
	}
	awaitStable(t, admin, "g", 3)
	held := l.awaitShares(t, 10*time.Second, map[string]int{"one": 4, "two": 4, "three": 4})
	t.Logf("three processes share %v after %s", held, time.Since(began).Round(time.Millisecond))
	load.mark()
	load.awaitAcks(t, groupPartitions, 100, 10*time.Second)

	load.mark()
	began = time.Now()
	processes["three"].kill()
	atKill := standingCommits(t, admin, "g", held["three"])
	took := l.awaitMoved(t, groupSession+10*time.Second, "three", held["three"], began)
	shares := l.awaitShares(t, 10*time.Second, map[string]int{"one": 6, "two": 6})
	t.Logf("kill -9: the last partition moved after %s", took.Round(time.Millisecond))
	if took > groupSession+movedMax+load.stood() {
		t.Errorf("kill -9: the last partition moved after %s, want at most %s", took, groupSession+movedMax)
	}
	for _, name := range []string{"one", "two"} {
		wantUndisturbed(t, l, load, name, held[name], began)
	}

	load.mark()
	began = time.Now()
	processes["two"].signal(t, syscall.SIGTERM)
	took = l.awaitMoved(t, 10*time.Second, "two", shares["two"], began)
	t.Logf("SIGTERM: the last partition moved after %s", took.Round(time.Millisecond))
	if took > movedMax+load.stood() {
		t.Errorf("SIGTERM: the last partition moved after %s, want at most %s", took, movedMax)
	}
	wantUndisturbed(t, l, load, "one", shares["one"], began)
	if code := processes["two"].ended(t, 5*time.Second); code != 0 {
		t.Errorf("the process that was asked to stop exited with %d", code)
	}

	load.finish(t)
	all := ends(t, admin, "events", groupPartitions)
	awaitDelivered(t, l, all)
	processes["one"].stop(t, syscall.SIGTERM, 5*time.Second)
	repeated := l.verify(t, all, "three", atKill)
	t.Logf("%d records, %d of them twice: those that the killed process had printed and not committed", load.count, repeated)
	wantCommitted(t, committed(t, admin, "g"), all)
	c.stop(t)
}

// standingCommits returns what is committed once the partitions' offsets have not
// moved for a while: the last commit of an owner that is gone is decided. The
// session of that owner must be longer.
func standingCommits(t testing.TB, c *client.Client, group string, partitions []int32) map[int32]int64 {
	t.Helper()
	const still = 300 * time.Millisecond
	at, since := committed(t, c, group), time.Now()
	await(t, patience, "the commits of a member that is gone stand still", func() (bool, string) {
		now := committed(t, c, group)
		for _, p := range partitions {
			if now[p] != at[p] {
				at, since = now, time.Now()
			}
		}
		return time.Since(since) > still, fmt.Sprint(now)
	})
	return at
}

// wantUndisturbed demands that the member was given records of what it had all
// along without a pause from began to now. The pauses of the producer itself
// are not held against it.
func wantUndisturbed(t testing.TB, l *ledger, load *load, name string, partitions []int32, began time.Time) {
	t.Helper()
	any, one := l.gaps(name, partitions, began)
	pause, _ := load.gap()
	t.Logf("%s: longest time without a record %s, without one of some partition %s; longest time the producer went without an ack of some partition %s",
		name, any.Round(time.Millisecond), one.Round(time.Millisecond), pause.Round(time.Millisecond))
	if limit := undisturbedMax + pause + load.stood(); any > limit {
		t.Errorf("%s was given nothing for %s, want at most %s", name, any, limit)
	}
}

// awaitDelivered waits until all records up to ends came.
func awaitDelivered(t testing.TB, l *ledger, ends map[int32]int64) {
	t.Helper()
	await(t, 10*time.Second, "every record came", func() (bool, string) {
		last := map[int32]int64{}
		for _, d := range l.snapshot() {
			last[d.partition] = max(last[d.partition], d.offset+1)
		}
		for p, end := range ends {
			if last[p] != end {
				return false, fmt.Sprintf("partition %d: %d of %d", p, last[p], end)
			}
		}
		return true, ""
	})
}

// wantCommitted demands that all is committed.
func wantCommitted(t testing.TB, got, ends map[int32]int64) {
	t.Helper()
	for p, end := range ends {
		if got[p] != end {
			t.Errorf("partition %d: %d is committed after everybody left in good order, want %d", p, got[p], end)
		}
	}
}
