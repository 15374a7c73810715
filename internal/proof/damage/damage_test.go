package damage

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestEveryHarmChangesTheFileAndOnlyWhereItIsMeantTo(t *testing.T) {
	t.Parallel()
	whole := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	for _, at := range []place{head, middle, tail, newest} {
		for _, h := range harms() {
			dir := t.TempDir()
			f := file{path: filepath.Join(dir, "now"), old: filepath.Join(dir, "old"), at: at}
			for path, data := range map[string][]byte{f.path: whole, f.old: whole[:50]} {
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := h.do(f); err != nil {
				t.Fatal(h.name, err)
			}
			got, err := os.ReadFile(f.path)
			if h.name == "removal" && errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			same := 0
			for same < min(len(got), len(whole)) && got[same] == whole[same] {
				same++
			}
			want := f.position(len(whole))
			switch h.name {
			case "garbage tail":
				want = len(whole)
			case "old copy":
				want = 50
			}
			if same != want || bytes.Equal(got, whole) {
				t.Errorf("%s at %d: the first %d bytes are as they were, want %d", h.name, at, same, want)
			}
		}
	}
	nowhere := file{path: filepath.Join(t.TempDir(), "x"), old: filepath.Join(t.TempDir(), "none", "x")}
	if err := restore(nowhere); !errors.Is(err, errNothing) {
		t.Errorf("an old copy that is not there: %v", err)
	}
}

func TestAnOldCopyThatIsNoOtherIsThatOfTheDirectory(t *testing.T) {
	t.Parallel()
	now, old := t.TempDir(), t.TempDir()
	for path, data := range map[string]string{now + "/a": "same", now + "/b": "new", old + "/a": "same", old + "/c": "earlier"} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := restore(file{path: now + "/a", old: old + "/a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(now + "/b"); !errors.Is(err, os.ErrNotExist) {
		t.Error("what came later is still there")
	}
	if data, err := os.ReadFile(now + "/c"); err != nil || string(data) != "earlier" {
		t.Errorf("%q, %v", data, err)
	}
	// A file whose name and directory did not exist yet goes with the one above them.
	if err := errors.Join(os.Mkdir(now+"/new", 0o755), os.WriteFile(now+"/new/file", []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := restore(file{path: now + "/new/file", old: old + "/new/file", up: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(now + "/new"); !errors.Is(err, os.ErrNotExist) {
		t.Error("the newer directory is still there")
	}
}

func TestWhatOnlyTheRaftLogStoreCanMendDoesNotFailTheProof(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		outcome string
		store   bool
		bad     bool
	}{
		{mended, false, false},
		{named, false, false},
		{refused, false, false},
		{undetected, false, true},
		{undetected, true, false},
		{unserved, false, true},
		{lostAcked, true, true},
		{lostAcked, false, true},
	} {
		if got := (&cell{outcome: c.outcome, target: target{store: c.store}}).bad(); got != c.bad {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestARunGoesOnWithTheCellsThatWereNotPlayed(t *testing.T) {
	t.Parallel()
	o := Options{State: filepath.Join(t.TempDir(), "state"), Only: "marker, first slot"}
	cells, err := load(o)
	if err != nil || len(cells) != 12 || !cells[0].open() {
		t.Fatalf("%d cells, %v", len(cells), err)
	}
	cells[3].outcome, cells[3].detail, cells[3].commit = named, "why", "abc"
	if err := save(o, cells); err != nil {
		t.Fatal(err)
	}
	index := Options{State: o.State, Only: "index"}
	if cells, err = load(index); err != nil {
		t.Fatal(err)
	}
	cells[0].outcome, cells[0].commit = mended, "def"
	if err := save(index, cells); err != nil {
		t.Fatal(err)
	}
	all, err := load(Options{State: o.State})
	if err != nil || len(all) != 144 || commits(all) != "def,abc" {
		t.Fatalf("%d cells of %s, %v", len(all), commits(all), err)
	}
	open := 0
	for _, c := range all {
		if c.open() {
			open++
		}
	}
	if again, err := load(o); err != nil || open != 142 || again[3].outcome != named || again[3].detail != "why" {
		t.Errorf("%d cells are open; %+v, %v", open, again[3], err)
	}
}
