package broker

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"logbroker/internal/storage"
)

// diskCheckInterval is how often free space is looked at. Between two looks a
// node takes in at most what the disk writes in that time, which the reserve
// must outlast.
const diskCheckInterval = time.Second

// diskReserve refuses produce while a directory's disk has less than
// bytesMin free, long before the Raft log would meet a full disk.
type diskReserve struct {
	dirs     []string
	bytesMin uint64
	logger   *slog.Logger
	free     func(dir string) (uint64, error)

	reached   atomic.Bool
	freeBytes atomic.Uint64
}

func newDiskReserve(dirs []string, bytesMin uint64, logger *slog.Logger) *diskReserve {
	d := &diskReserve{dirs: dirs, bytesMin: bytesMin, logger: logger, free: storage.FreeBytes}
	d.look()
	return d
}

// run looks again and again until ctx ends.
func (d *diskReserve) run(ctx context.Context) {
	ticker := time.NewTicker(diskCheckInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			d.look()
		}
	}
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
	below := least < d.bytesMin
	if d.reached.Swap(below) == below {
		return
	}
	if below {
		d.logger.Error("disk reserve reached: produce is refused until space returns", "free_bytes", least, "min_free_bytes", d.bytesMin)
	} else {
		d.logger.Info("disk space returned: produce is accepted again", "free_bytes", least)
	}
}
