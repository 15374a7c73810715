package broker

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"logbroker/internal/storage"
)

// How often free space is looked at: so often that the disk cannot write what is
// free above the reserve between two looks, were it as fast as diskBytesPerSecond.
// What is in flight when the reserve is reached is for the reserve to take.
const (
	diskCheckMin       = 10 * time.Millisecond
	diskCheckMax       = 250 * time.Millisecond
	diskBytesPerSecond = 4 << 30
)

// diskReserve notices when a directory's disk has less than bytesMin free, long
// before the Raft log would meet a full disk. Space has returned when an eighth
// more than bytesMin is free: else produce would be taken and refused in turn at
// the limit.
type diskReserve struct {
	dirs     []string
	bytesMin uint64
	logger   *slog.Logger
	free     func(dir string) (uint64, error)
	// tell is told when the node falls below its reserve and when it is above
	// it again, from one goroutine.
	tell func(low bool)

	low       atomic.Bool
	freeBytes atomic.Uint64
}

func newDiskReserve(dirs []string, bytesMin uint64, logger *slog.Logger) *diskReserve {
	return &diskReserve{dirs: dirs, bytesMin: bytesMin, logger: logger, free: storage.FreeBytes, tell: func(bool) {}}
}

// start looks for the first time: before the node serves anything.
func (d *diskReserve) start(tell func(low bool)) {
	d.tell = tell
	d.look()
}

// run looks again and again until ctx ends.
func (d *diskReserve) run(ctx context.Context) {
	timer := time.NewTimer(d.pause())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			d.look()
			timer.Reset(d.pause())
		}
	}
}

// pause is the time to the next look.
func (d *diskReserve) pause() time.Duration {
	free := d.freeBytes.Load()
	if d.low.Load() || free <= d.bytesMin {
		return diskCheckMax // nothing is taken in
	}
	above := min(free-d.bytesMin, diskBytesPerSecond) // of what a second can take
	return min(max(time.Duration(above)*time.Second/diskBytesPerSecond, diskCheckMin), diskCheckMax)
}

// look takes the least free space of all directories. A disk that cannot be
// asked counts as it did before.
func (d *diskReserve) look() {
	least := ^uint64(0)
	for _, dir := range d.dirs {
		free, err := d.free(dir)
		if err != nil {
			d.logger.Warn("cannot read the free disk space", "dir", dir, "err", err)
			return
		}
		least = min(least, free)
	}
	d.freeBytes.Store(least)
	need := d.bytesMin
	if d.low.Load() {
		need += d.bytesMin / 8
	}
	low := least < need
	if d.low.Swap(low) == low {
		return
	}
	if low {
		d.logger.Error("disk reserve reached: produce is refused until space returns", "free_bytes", least, "min_free_bytes", d.bytesMin)
	} else {
		d.logger.Info("disk space returned: produce is accepted again", "free_bytes", least)
	}
	d.tell(low)
}
