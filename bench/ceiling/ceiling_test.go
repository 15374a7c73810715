package ceiling

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"logbroker/bench/load"
)

func TestMeasureFillsInEveryFigureAndLeavesNothing(t *testing.T) {
	dir, spec := t.TempDir(), load.Defaults()
	spec.Payload, spec.RecordSize = load.PayloadJSON, 256
	c, err := Measure(t.Context(), dir, spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range c.Figures() {
		if f.Value <= 0 {
			t.Errorf("%s: %g %s", f.What, f.Value, f.Unit)
		}
	}
	if c.ZstdRatio < 3 || c.SyncP99Ms < c.SyncP50Ms {
		t.Errorf("%+v", c)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAPlaceThatIsNotThereIsAnErrorThatSaysWhatToDo(t *testing.T) {
	if _, err := Measure(t.Context(), filepath.Join(t.TempDir(), "none"), load.Defaults()); err == nil || !strings.Contains(err.Error(), "--ceiling=false") {
		t.Errorf("%v", err)
	}
}
