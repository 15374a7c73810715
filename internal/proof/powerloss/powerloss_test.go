package powerloss

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestARoundHasEveryMomentWithOneTwoAndThreeNodes(t *testing.T) {
	t.Parallel()
	deal := func(seed uint64) []string {
		r := &run{rng: rand.New(rand.NewPCG(seed, 0))}
		var cycles []string
		for range legCycles {
			c := r.next()
			cycles = append(cycles, c.moment.name+" "+r.names(c.nodes))
		}
		return cycles
	}
	count := map[string]int{}
	for i, c := range deal(1) {
		if c != deal(1)[i] {
			t.Fatal("the same seed gives another series")
		}
		for _, m := range moments() {
			for _, nodes := range []string{" node ", " nodes ", " all nodes"} {
				if strings.HasPrefix(c, m.name+nodes) {
					count[m.name+nodes]++
				}
			}
		}
	}
	if len(count) != len(moments())*3 {
		t.Errorf("%v", count)
	}
}

func TestAWatchHearsOfTheFileItWaitsFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := newWatch()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if err := w.add(dir, created); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"other", "a-name-that-is-longer.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	name, err := w.await(t.Context(), func(name string) bool { return strings.HasSuffix(name, ".log") })
	if err != nil || name != "a-name-that-is-longer.log" {
		t.Error(name, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.await(ended, func(string) bool { return true }); err == nil {
		t.Error("it waits on though its context has ended")
	}
}
