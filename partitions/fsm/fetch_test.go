package fsm

import (
	"errors"
	"io"
	"sync"

	"github.com/lni/dragonboat/v4/statemachine"

	"logbroker/internal/storage"
	"logbroker/partitions/commitlog"
)

// suppliers are the pins behind all leases of this test binary.
var suppliers struct {
	mu   sync.Mutex
	pins []*commitlog.Pinned
}

// fetcher brings segments straight from the pin that the snapshot's lease names.
// It is used as partitions uses its own, but without a network.
type fetcher struct {
	fs storage.FS
	// bytes counts what was copied; cut, where set, is after how many bytes each
	// transfer breaks.
	bytes, cut int64
	// logStart is what the peers have trimmed to meanwhile.
	logStart int64
}

func (x *fetcher) Lease(pin *commitlog.Pinned) uint64 {
	suppliers.mu.Lock()
	defer suppliers.mu.Unlock()
	suppliers.pins = append(suppliers.pins, pin)
	return uint64(len(suppliers.pins))
}

func pinOf(lease uint64) *commitlog.Pinned {
	suppliers.mu.Lock()
	defer suppliers.mu.Unlock()
	if lease == 0 || lease > uint64(len(suppliers.pins)) {
		return nil
	}
	return suppliers.pins[lease-1]
}

func (x *fetcher) Fetch(j FetchJob, use func(commitlog.Manifest, *commitlog.Staging) error) error {
	if stopped(j.Stop) {
		return statemachine.ErrSnapshotStopped
	}
	pin := pinOf(j.Lease)
	if pin == nil {
		return errors.New("no such lease")
	}
	s, err := OpenStaging(x.fs, testDir, commitlog.Options{})
	if err != nil {
		return err
	}
	m := j.Manifest.Trimmed(x.logStart)
	for {
		wants, _, err := s.Missing(m, j.Own)
		if err != nil {
			return err
		}
		if len(wants) == 0 {
			return use(m, s)
		}
		if err := x.segment(s, wants[0], j.Own, pin); err != nil {
			return err
		}
	}
}

func (x *fetcher) segment(s *commitlog.Staging, w commitlog.Want, own, pin *commitlog.Pinned) error {
	in, err := s.Begin(w, own)
	if err != nil {
		return err
	}
	from, to := in.Position(), w.Bytes()
	if x.cut > 0 {
		to = min(to, from+x.cut)
	}
	counted := io.MultiWriter(in, counter{&x.bytes})
	if err := pin.CopySegment(counted, w.Base(), from, to); err != nil {
		return err
	}
	if to < w.Bytes() {
		return in.Close() // cut off; begun again
	}
	return in.Finish()
}

type counter struct{ n *int64 }

func (c counter) Write(b []byte) (int, error) {
	*c.n += int64(len(b))
	return len(b), nil
}
