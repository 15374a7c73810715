package storage_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

func TestWriteFileAtomicIsOldOrNewAfterACrashAtAnyOperation(t *testing.T) {
	old, next := []byte("old content"), []byte("new content, longer")
	for at := 1; ; at++ {
		mem := storage.NewStrictMem()
		must(t, storage.MkdirAll(mem, "/d"))
		must(t, storage.WriteFileAtomic(mem, "/d/f", old))
		inj := &storagetest.Injector{At: at, Sticky: true, Keep: func(n int) int { return n / 2 }}
		err := storage.WriteFileAtomic(storagetest.Wrap(mem, inj.Hook), "/d/f", next)
		op, fired := inj.Fired()
		if fired != (err != nil) || fired && !errors.Is(err, storagetest.ErrInjected) {
			t.Fatalf("operation %d (%v): error %v", at, op, err)
		}
		mem.ResetToSyncedState()
		got, rerr := storage.ReadFile(mem, "/d/f")
		must(t, rerr)
		if err == nil && !bytes.Equal(got, next) || !bytes.Equal(got, old) && !bytes.Equal(got, next) {
			t.Fatalf("operation %d (%v): the file holds %q", at, op, got)
		}
		if !fired {
			return
		}
	}
}

func TestTruncateIsDurableAndNeverGrows(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	mem := storage.NewStrictMem()
	for name, c := range map[string]struct {
		fs    storage.FS
		path  string
		crash func()
	}{
		"real":   {storage.OS(), file, func() {}},
		"memory": {mem, "/f", mem.ResetToSyncedState},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, storage.WriteFileAtomic(c.fs, c.path, []byte("0123456789")))
			must(t, storage.Truncate(c.fs, c.path, 4))
			must(t, storage.Truncate(c.fs, c.path, 4))
			if err := storage.Truncate(c.fs, c.path, 5); err == nil {
				t.Fatal("truncation to more than the file has succeeded")
			}
			c.crash()
			got, err := storage.ReadFile(c.fs, c.path)
			must(t, err)
			if string(got) != "0123" {
				t.Fatalf("got %q", got)
			}
		})
	}
}

func TestReadFileOfAMissingFileMatchesErrNotExist(t *testing.T) {
	for _, fs := range []storage.FS{storage.OS(), storage.NewStrictMem()} {
		_, err := storage.ReadFile(fs, "/no-such-file-here")
		if !errors.Is(err, os.ErrNotExist) || !storage.NotExist(err) {
			t.Fatalf("got %v", err)
		}
	}
}

func TestLockDirRefusesASecondHolderByName(t *testing.T) {
	dir := t.TempDir()
	l, err := storage.LockDir(dir)
	must(t, err)
	if _, err := storage.LockDir(dir); err == nil || !strings.Contains(err.Error(), dir) ||
		!strings.Contains(err.Error(), "another process") {
		t.Fatalf("second lock: %v", err)
	}
	must(t, l.Close())
	again, err := storage.LockDir(dir)
	must(t, err)
	must(t, again.Close())
	if _, err := storage.LockDir(filepath.Join(dir, "missing")); err == nil {
		t.Fatal("locked a directory that does not exist")
	}
}

func TestFreeBytesOfARealDirectory(t *testing.T) {
	n, err := storage.FreeBytes(t.TempDir())
	if err != nil || n == 0 {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := storage.FreeBytes("/no-such-directory-here"); err == nil {
		t.Fatal("no error for a missing directory")
	}
}

func TestWriteBackKeepsTheBytes(t *testing.T) {
	fs, path := storage.OS(), filepath.Join(t.TempDir(), "f")
	f, err := fs.Create(path)
	must(t, err)
	want := bytes.Repeat([]byte("x"), 100_000)
	_, err = f.Write(want)
	must(t, err)
	must(t, storage.WriteBack(f, 0, int64(len(want))))
	must(t, f.Close())
	got, err := storage.ReadFile(fs, path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Fatal("the bytes changed")
	}
	if err := storage.WriteBack(f, 0, 1); err == nil {
		t.Fatal("no error for a closed file")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(fmt.Errorf("unexpected: %w", err))
	}
}
