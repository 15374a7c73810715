package load

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Seconds is a time span that is a plain number of seconds in JSON.
type Seconds float64

// Duration returns s as a time.Duration.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// The phases of a turn.
const (
	// PhaseProduce sends as fast as it goes, or at Spec.TargetRate.
	PhaseProduce = "produce"
	// PhaseLatency sends at Spec.LatencyShare of the rate that PhaseProduce
	// reached before, open loop.
	PhaseLatency = "latency"
	// PhaseAlone sends one record at a time, the next after the ack.
	PhaseAlone = "alone"
	// PhaseConsume reads all that was produced, from the start.
	PhaseConsume = "consume"
	// PhaseTailed sends as PhaseLatency does while one consumer group reads along
	// at the end of the log; PhaseJoined while, in addition, a second one reads
	// everything from the start, and begins anew when it is through. With a
	// LatencyShare of 1 they send as fast as it goes.
	PhaseTailed = "tailed"
	PhaseJoined = "joined"
	// PhaseE2E sends (at Spec.TargetRate, if set) and measures until a consumer
	// group has the record.
	PhaseE2E = "e2e"
)

// Payloads of Spec.Payload.
const (
	PayloadRandom = "random" // no codec shrinks it
	PayloadJSON   = "json"   // events, about 6:1 under zstd
)

// Spec is what is to be done. All of it is in the JSON result.
type Spec struct {
	Phases []string `json:"phases"` // in this order

	Topics     int `json:"topics"`
	Partitions int `json:"partitions"` // of each topic
	Replicas   int `json:"replicas"`   // of each partition; 0: the system's default, which its settings name
	Producers  int `json:"producers"`  // client connections that send
	Consumers  int `json:"consumers"`  // client connections that receive

	RecordSize int    `json:"record_size"` // bytes of a value; on average for PayloadJSON
	Payload    string `json:"payload"`
	Keys       int    `json:"keys"` // distinct keys; 0: records have none
	Seed       uint64 `json:"seed"`

	BatchBytes  int     `json:"batch_bytes"`
	LingerMs    float64 `json:"linger_ms"` // < 0: the client's adaptive way
	Compression string  `json:"compression"`
	MaxInFlight int     `json:"max_in_flight"` // batches (or what the system counts) unacked per partition
	BufferBytes int64   `json:"buffer_bytes"`  // unacked bytes per producer

	// Records ends a sending phase when so many were sent; 0: Duration does.
	Records      int64   `json:"records"`
	Duration     Seconds `json:"duration_s"`
	Warmup       Seconds `json:"warmup_s"`      // before the measured window, of every sending phase
	TargetRate   float64 `json:"target_rate"`   // records/s over all producers; 0: as fast as it goes
	LatencyShare float64 `json:"latency_share"` // of PhaseProduce's rate

	// Dir holds the data of what is started. It is fresh, and whoever made it
	// removes it.
	Dir string `json:"dir"`
	// Options are a system's own, e.g. sync=always.
	Options map[string]string `json:"options,omitempty"`
}

// Defaults returns the values of a Spec where nothing else is asked for: ten
// seconds of 1 KiB random records on six partitions with three replicas.
func Defaults() Spec {
	return Spec{
		Phases: []string{PhaseProduce}, Topics: 1, Partitions: 6, Replicas: 3, Producers: 1, Consumers: 1,
		RecordSize: 1024, Payload: PayloadRandom, Seed: 1,
		BatchBytes: 512 << 10, LingerMs: -1, Compression: "zstd", MaxInFlight: 5, BufferBytes: 32 << 20,
		Duration: 10, Warmup: 2, LatencyShare: 0.5, Options: map[string]string{},
	}
}

// Limits of a Spec.
const (
	recordSizeMin     = 16 // a send time has to fit in; see stamp
	jsonRecordSizeMin = 64
	recordSizeMax     = 1 << 20
)

// Validate returns all faults at once, each naming the flag of the command line
// that sets it.
func (s *Spec) Validate() error {
	var errs []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	phases := []string{PhaseProduce, PhaseLatency, PhaseAlone, PhaseConsume, PhaseE2E, PhaseTailed, PhaseJoined}
	fault(len(s.Phases) == 0, "no phases: name at least one of %s", strings.Join(phases, ", "))
	for i, p := range s.Phases {
		fault(!slices.Contains(phases, p), "unknown phase %q: use %s", p, strings.Join(phases, ", "))
		fault((p == PhaseLatency || p == PhaseTailed || p == PhaseJoined) && !slices.Contains(s.Phases[:i], PhaseProduce) && s.TargetRate == 0,
			"phase %s needs phase produce before it, or a --target-rate", p)
	}
	fault(s.Topics < 1, "--topics %d: use 1 or more", s.Topics)
	fault(s.Partitions < 1, "--partitions %d: use 1 or more", s.Partitions)
	fault(s.Replicas < 0, "--replicas %d: use 1 or more, or 0 for the system's default", s.Replicas)
	fault(s.Producers < 1, "--producers %d: use 1 or more", s.Producers)
	fault(s.Consumers < 1, "--consumers %d: use 1 or more", s.Consumers)
	fault(s.Payload != PayloadRandom && s.Payload != PayloadJSON, "--payload %q: use random or json", s.Payload)
	least := recordSizeMin
	if s.Payload == PayloadJSON {
		least = jsonRecordSizeMin
	}
	fault(s.RecordSize < least || s.RecordSize > recordSizeMax, "--record-size %d: use %d to %d with --payload %s", s.RecordSize, least, recordSizeMax, s.Payload)
	fault(s.Keys < 0, "--keys %d: use 0 (no key) or more", s.Keys)
	fault(s.Records < 0, "--records %d: use 1 or more, or leave it out for --duration", s.Records)
	fault(s.Records == 0 && s.Duration <= 0, "neither --records nor --duration: say how long to run")
	fault(s.Warmup < 0, "--warmup %gs: use 0 or more", float64(s.Warmup))
	fault(s.TargetRate < 0, "--target-rate %g: use records per second, or leave it out for as fast as it goes", s.TargetRate)
	fault(s.LatencyShare <= 0 || s.LatencyShare > 1, "--latency-share %g: use more than 0 and at most 1", s.LatencyShare)
	return errors.Join(errs...)
}
