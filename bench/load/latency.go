package load

import (
	"fmt"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// The range of a histogram, in microseconds, and its precision. What lies
// outside is counted at the nearest end.
const (
	latencyMin    = 1
	latencyMax    = int64(10 * time.Minute / time.Microsecond)
	latencyDigits = 3
)

func newHistogram() *hdr.Histogram { return hdr.New(latencyMin, latencyMax, latencyDigits) }

// record counts one latency.
func record(h *hdr.Histogram, d time.Duration) {
	micros := min(max(d.Microseconds(), latencyMin), latencyMax)
	_ = h.RecordValue(micros) // fails only outside the range
}

// percentileMs is a percentile (0 … 100) in milliseconds.
func percentileMs(h *hdr.Histogram, percentile float64) float64 {
	return float64(h.ValueAtPercentile(percentile)) / 1000
}

// setLatencies fills in what h holds; nothing where it is empty.
func (r *Result) setLatencies(h *hdr.Histogram) error {
	if h.TotalCount() == 0 {
		return nil
	}
	r.AvgMs, r.MaxMs = h.Mean()/1000, float64(h.Max())/1000
	r.P50Ms, r.P95Ms, r.P99Ms, r.P999Ms = percentileMs(h, 50), percentileMs(h, 95), percentileMs(h, 99), percentileMs(h, 99.9)
	encoded, err := h.Encode(hdr.V2CompressedEncodingCookieBase)
	if err != nil {
		return fmt.Errorf("encoding the histogram: %w", err)
	}
	r.Histogram = string(encoded)
	return nil
}

// Latencies decodes Result.Histogram (microseconds); an empty one where there is
// none.
func (r *Result) Latencies() (*hdr.Histogram, error) {
	if r.Histogram == "" {
		return newHistogram(), nil
	}
	h, err := hdr.Decode([]byte(r.Histogram))
	if err != nil {
		return nil, fmt.Errorf("the histogram of phase %s is damaged: %w", r.Phase, err)
	}
	return h, nil
}

// KafkaLine is the result in the words of Kafka's producer performance tool, so
// that what reads those can read these (source: Apache Kafka,
// ProducerPerformance.Stats.printTotal). Without latencies it ends after the
// rate. MB are 10^6 bytes.
func (r *Result) KafkaLine() string {
	verb := "sent"
	if r.Phase == PhaseConsume || r.Phase == PhaseE2E {
		verb = "received"
	}
	line := fmt.Sprintf("%d records %s, %.1f records/sec (%.2f MB/sec)", r.Records, verb, r.RecordsPerS, r.MBPerS)
	if r.Histogram == "" {
		return line + "."
	}
	return line + fmt.Sprintf(", %.2f ms avg latency, %.2f ms max latency, %.2f ms 50th, %.2f ms 95th, %.2f ms 99th, %.2f ms 99.9th.",
		r.AvgMs, r.MaxMs, r.P50Ms, r.P95Ms, r.P99Ms, r.P999Ms)
}
