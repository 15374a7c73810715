package storage

import (
	"bytes"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cachedBytes is how many of the first n bytes of a file are in the page cache.
func cachedBytes(t *testing.T, f File, n int) (cached int) {
	t.Helper()
	fd := int(f.(interface{ Fd() uintptr }).Fd())
	m, err := unix.Mmap(fd, 0, n, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	}()
	page := unix.Getpagesize()
	resident := make([]byte, n/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(n), uintptr(unsafe.Pointer(&resident[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, r := range resident {
		cached += int(r&1) * page
	}
	return cached
}

func TestForgetCachedGivesUpDurablePagesAndNoBytes(t *testing.T) {
	const size = 8 << 20
	path := filepath.Join(t.TempDir(), "f")
	f, err := OS().Create(path)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("logbroker"), size/9+1)[:size]
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	ForgetCached(f, 0, size/2)
	// Pages at the border may stay: the kernel gives up whole folios.
	if left := cachedBytes(t, f, size/2); left == size/2 {
		t.Skip("the file system of the temporary directory keeps its pages (tmpfs?)")
	} else if left > size/4 {
		t.Errorf("%d KiB of %d stay cached", left>>10, size/2>>10)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(OS(), path)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the file reads otherwise than it was written (%v)", err)
	}
}
