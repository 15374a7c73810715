package nemesis

import (
	"fmt"
	"time"

	"logbroker/internal/proof/testbed"
)

// line is the run's one line.
func line(s *testbed.Series) string {
	all := s.Total()
	return fmt.Sprintf("faults=%d %s worst-unavailable=%.2fs p99=%s seed=%d commit=%s reads=%d misread=%d replaced=%d",
		all.Faults, all.String(), all.Worst.Seconds(), all.P99.Round(time.Millisecond), s.Seed, s.Commits(), all.Reads, all.Misread, all.Replaced)
}
