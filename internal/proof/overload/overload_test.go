package overload

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"logbroker/internal/proof/testbed"
)

// TestAShortOverloadLosesNothing is what every machine can do, root or not: one
// partition is offered more than it takes at once. A machine with a fast disk may
// take all of it: whether anything was refused is not asked here.
func TestAShortOverloadLosesNothing(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "logbrokerd")
	if out, err := exec.Command("go", "build", "-o", binary, "logbroker/cmd/logbrokerd").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var out bytes.Buffer
	err := Run(context.Background(), Options{
		Binary: binary, Commit: "test", Dir: t.TempDir(), Seed: 1, Duration: time.Second, LegMax: time.Minute,
		MemoryBytes: 1 << 30, DiskBytes: 64 << 20, Partitions: 1, Idle: 30, Stalled: 3, Out: &out,
	})
	t.Logf("%s", out.String())
	last := regexp.MustCompile(`\noffered=[1-9].* allowed=.* acked=[1-9]\d* unknown=\d+ lost=0 duplicated=0 reordered=0 diverged=0 throttled=\d+ rss-max=[1-9]\d*MiB idle=30 beside-idle=\d\S* beside-all=\d\S* beside-gap=\d\S*s seed=1 commit=test\n$`)
	if err != nil && !errors.Is(err, ErrNotRefused) || !last.MatchString(out.String()) {
		t.Error(err)
	}
}

func TestTooMuchMemoryTooLittleLoadAndStarvedProducersFail(t *testing.T) {
	t.Parallel()
	for want, c := range map[error]struct {
		peak                    int64
		throttled, alone, crowd float64
	}{
		nil:           {peak: 100, throttled: 1, alone: 12, crowd: 11},
		ErrTooMuch:    {peak: 101, throttled: 1},
		ErrNotRefused: {peak: 100},
		ErrStarved:    {peak: 100, throttled: 1, alone: 2, crowd: 11},
	} {
		r := &run{options: Options{MemoryBytes: 100}, leg: &testbed.Leg{Figures: map[string]float64{throttled: c.throttled, gapAlone: c.alone, gapCrowd: c.crowd}}}
		r.peaks[1].Store(c.peak)
		if err := r.verdict(); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", c, err, want)
		}
	}
}
