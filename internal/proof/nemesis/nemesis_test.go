package nemesis

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"logbroker/internal/proof/testbed"
)

var all = testbed.Powers{Cuts: true, Disks: true, Trace: true, Clock: true}

func TestTheSameSeedGivesTheSameSchedule(t *testing.T) {
	t.Parallel()
	draw := func(seed, leg uint64) []step {
		s := newSchedule(seed, leg, all)
		steps := make([]step, 3*len(s.deck))
		for i := range steps {
			steps[i] = s.next()
		}
		return steps
	}
	for seed := range uint64(20) {
		steps := draw(seed, 0)
		if !slices.Equal(steps, draw(seed, 0)) {
			t.Fatalf("seed %d gives two schedules", seed)
		}
		if slices.Equal(steps, draw(seed, 1)) || slices.Equal(steps, draw(seed+1, 0)) {
			t.Fatalf("another leg or seed than %d gives the same schedule", seed)
		}
		count := map[kind]int{}
		for _, s := range steps {
			count[s.kind]++
			if s.node == s.other || s.hold <= 0 || s.pause <= 0 {
				t.Fatalf("seed %d: %+v", seed, s)
			}
		}
		for _, k := range kinds(all) {
			if count[k] < 3 {
				t.Errorf("seed %d: %s comes %d times in three rounds", seed, k, count[k])
			}
		}
		if at := slices.IndexFunc(steps, func(s step) bool { return s.kind == swap }); at >= 12 {
			t.Errorf("seed %d: the longest fault is number %d: a short run would not have it", seed, at)
		}
	}
}

// build builds a command of this module and returns its path.
func build(t *testing.T, pkg string, flags ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(pkg))
	args := append([]string{"build", "-o", file}, flags...)
	if out, err := exec.Command("go", append(args, pkg)...).CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return file
}

// TestAShortRunLosesNothing is what every machine can do, root or not.
func TestAShortRunLosesNothing(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := Run(context.Background(), Options{
		Binary: build(t, "logbroker/cmd/logbrokerd"), Commit: "test", Dir: t.TempDir(), Seed: 1, Only: string(killLeader),
		Duration: time.Second, LegMax: time.Minute, Rate: 2000, Out: &out,
	})
	t.Logf("%s", out.String())
	last := regexp.MustCompile(`\nfaults=[1-9]\d* acked=[1-9]\d* unknown=\d+ lost=0 duplicated=0 reordered=0 diverged=0 .* seed=1 commit=test reads=[1-9]\d* misread=0 replaced=0\n$`)
	if err != nil || !last.MatchString(out.String()) {
		t.Error(err)
	}
}

// TestAJumpOfALeadersClockTrimsNothing: the clock of the node that leads most jumps a
// day ahead, and retention looks for old segments all the time.
func TestAJumpOfALeadersClockTrimsNothing(t *testing.T) {
	t.Parallel()
	powers := testbed.Powers{Clock: testbed.Discover().Clock}
	if !powers.Clock {
		t.Skip("SKIPPED: the clock of a process cannot be set here")
	}
	seed := uint64(1)
	for ; ; seed++ {
		s := newSchedule(seed, 0, powers)
		s.only = clockJump
		if first := s.next(); first.pick&7 == 2 && first.hold < time.Second { // ahead, the leader's, and it lives on
			break
		}
	}
	var out bytes.Buffer
	err := Run(context.Background(), Options{
		Binary: build(t, "logbroker/cmd/logbrokerd"), Commit: "test", Dir: t.TempDir(), Seed: seed, Only: string(clockJump), SegmentBytes: "4KiB",
		Duration: time.Millisecond, LegMax: time.Minute, Rate: 2000, Powers: powers, Out: &out,
	})
	t.Logf("%s", out.String())
	if err != nil || !strings.Contains(out.String(), "faults=1 ") {
		t.Error(err)
	}
}

// brokenEnv asks for the test of broken builds: they have to be built.
const brokenEnv = "PROOF_BROKEN"

// TestABrokenBuildIsCaught runs the command as CI does: a broker whose syncs do
// nothing loses records, one that does not recognise retries stores them twice.
func TestABrokenBuildIsCaught(t *testing.T) {
	if os.Getenv(brokenEnv) == "" {
		t.Skip("broken brokers have to be built for it: make nemesis-broken")
	}
	proof := build(t, "logbroker/internal/proof")
	for name, c := range map[string]struct {
		build, args []string
		needs       string // what the machine must be able to do, as Discover says it
		want        string
	}{
		// What such disks forget shows as records that are lost or, where the nodes
		// notice it, as a cluster that never heals.
		"without fsync": {
			args:  []string{"--without-fsync", "--only", "power-loss-all", "--duration", "2s"},
			needs: "power loss", want: ` lost=[1-9]|: waiting until `,
		},
		"without de-duplication": {
			build: []string{"-tags", "broken_dedup"}, args: []string{"--only", "kill-leader", "--duration", "8s"}, want: ` duplicated=[1-9]`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"nemesis", "--binary", build(t, "logbroker/cmd/logbrokerd", c.build...), "--dir", t.TempDir(), "--seed", "1", "--delivery-timeout", "3s"}, c.args...)
			out, err := exec.Command(proof, args...).CombinedOutput()
			text := string(out)
			if c.needs != "" && strings.Contains(text, "skipped: "+c.needs) {
				t.Skip(text)
			}
			if err == nil || !regexp.MustCompile(c.want).MatchString(text) {
				t.Errorf("want %s and an exit code: %v\n%s", c.want, err, text)
			}
			t.Logf("%.600s", text[max(0, len(text)-600):])
		})
	}
}
