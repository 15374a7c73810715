package partitions

import (
	"errors"
	"strings"
	"testing"

	"github.com/lni/vfs"

	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

// Wherever a quarantine ends, the mark is durable before the first file moves and
// before anybody is told, and no file is lost.
func TestACrashAnywhereInAQuarantineLosesNoFileAndMovesNoneBeforeTheMark(t *testing.T) {
	const dir = "/partitions/1001-1"
	files := []string{"marker", "log-1/0.log"}
	for crashAt, finished := 1, false; !finished; crashAt++ {
		mem := storage.NewStrictMem()
		for _, folder := range []string{"/partitions", dir, dir + "/log-1"} {
			if err := storage.MkdirAll(mem, folder); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range files {
			if err := storage.WriteFileAtomic(mem, dir+"/"+name, []byte(name)); err != nil {
				t.Fatal(err)
			}
		}
		crash := &storagetest.Injector{At: crashAt, Sticky: true, Match: func(op storagetest.Op) bool {
			return op.Kind.Mutates() && strings.HasPrefix(op.Path, dir)
		}}
		h := NewHost(Options{FS: storagetest.Wrap(mem, crash.Hook), Dir: "/partitions"})
		err := h.quarantine(newPartition(Spec{Shard: 1001, Replica: 1}, &h.options, nil, h.attendants), dir, errors.New("the test says so"))
		if closeErr := h.Close(); closeErr != nil {
			t.Fatal(closeErr)
		}
		mem.ResetToSyncedState()
		marked := exists(t, mem, dir+"/"+quarantineMark)
		if errors.Is(err, ErrQuarantined) && !marked {
			t.Errorf("crash at %d: it is told, and the mark is gone: %v", crashAt, err)
		}
		_, fired := crash.Fired()
		finished = !fired
		for _, name := range files {
			here, aside := exists(t, mem, dir+"/"+name), exists(t, mem, dir+"/"+quarantineFolder+"/"+name)
			if !here && !aside || aside && !marked || finished && (here || !aside) {
				t.Errorf("crash at %d: marked %v, %s is in its place %v, aside %v", crashAt, marked, name, here, aside)
			}
		}
		if finished && (crashAt < 6 || !errors.Is(err, ErrQuarantined)) {
			t.Errorf("finished after %d operations: %v", crashAt-1, err)
		}
	}
}

func exists(t *testing.T, fs vfs.FS, path string) bool {
	t.Helper()
	_, err := fs.Stat(path)
	if err != nil && !storage.NotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}
