package cluster

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"logbroker/config"
	"logbroker/internal/errcode"
	"logbroker/internal/storage"
)

// smallDisk mounts a file system of size bytes for the test.
func smallDisk(t *testing.T, size config.ByteSize) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+strconv.FormatInt(int64(size), 10)); err != nil {
		t.Skipf("SKIPPED: a small file system cannot be mounted here (%v); run as root", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A real disk fills up while producing; the reserve holds, the nodes live on, and
// a trim makes the room in which produce goes on.
func TestADiskThatFillsUpRefusesProduceAndATrimMakesRoom(t *testing.T) {
	const reserve = 64 * config.MiB
	dir := smallDisk(t, 640*config.MiB)
	c := Start(t, Options{Dir: dir, Configure: func(f *config.Config) {
		quietLeaders(f)
		f.Storage.MinFreeBytes = reserve
	}})
	p := c.onePart("filling", map[string]string{"segment_bytes": "1MiB"})
	const size = 512 << 10
	for len(p.acked) < 80 {
		p.try(size)
	}
	// What the records need not fill, another file does; then a little is left.
	filler := filepath.Join(dir, "filler")
	free, err := storage.FreeBytes(dir)
	if err != nil {
		t.Fatal(err)
	}
	left := uint64(reserve) + 24<<20
	if free <= left {
		t.Fatalf("only %d bytes are free at the start", free)
	}
	if err := os.WriteFile(filler, make([]byte, free-left), 0o600); err != nil {
		t.Fatal(err)
	}
	c.WaitFor("the disk is full", func() bool { return p.try(size) == errcode.DiskReserve })
	if free, err = storage.FreeBytes(dir); err != nil || free < uint64(reserve)/2 {
		t.Errorf("%d bytes are free: the reserve did not hold (%v)", free, err)
	}
	acked := len(p.acked)
	if acked < 82 {
		t.Errorf("only %d records were taken before the reserve was reached", acked)
	}
	p.check()
	// The trim leaves some records; nothing but it makes room.
	if _, err := c.Client().Admin().TrimTopic(within(t, waitTimeout), "filling", 0, int64(acked-5)); err != nil {
		t.Fatal(err)
	}
	p.acked = p.acked[acked-5:]
	c.WaitFor("produce is taken again", func() bool { return p.try(0) == errcode.None })
	p.check()
	t.Logf("%d records of 512 KiB were taken until %d MiB were free", acked, free>>20)
}
