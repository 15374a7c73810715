package load

import (
	"time"

	"logbroker/bench/procs"
)

// DocumentFormat marks the JSON files of the bench tool.
const DocumentFormat = "logbroker-bench/1"

// Document is the JSON file of the commands produce, consume, e2e and sweep.
type Document struct {
	Format  string        `json:"format"`  // DocumentFormat
	Command string        `json:"command"` // produce, consume, e2e, sweep partitions, …
	Args    []string      `json:"args"`    // of the command line
	At      time.Time     `json:"at"`      // when it began
	Host    string        `json:"host"`
	GitRef  string        `json:"git_ref"` // commit, with -dirty where the checkout was changed
	Version string        `json:"version"`
	Machine procs.Machine `json:"machine"`
	// Ceiling is nil where the brokers are on other machines.
	Ceiling *Ceiling `json:"ceiling,omitempty"`

	// Of the last turn, and sums over all of them.
	Replicas   int     `json:"replicas"`
	Durability string  `json:"durability"` // what an ack means
	CPUSeconds float64 `json:"cpu_s"`      // of the brokers, warm-ups cut off
	DiskBytes  int64   `json:"disk_bytes"` // of the brokers, warm-ups cut off

	Turns []Turn `json:"turns"` // one, or one per point and round of a sweep
}

// Add adds a turn and updates the sums.
func (d *Document) Add(t Turn) {
	d.Turns = append(d.Turns, t)
	d.Replicas, d.Durability = t.Replicas, t.Durability
	for i := range t.Phases {
		d.CPUSeconds += t.Phases[i].CPUSeconds
		d.DiskBytes += t.Phases[i].DiskBytes
	}
}

// Turn is what one system did with one Spec.
type Turn struct {
	System      string            `json:"system"`
	Point       string            `json:"point,omitempty"` // of a sweep, e.g. "partitions=60"
	Round       int               `json:"round,omitempty"` // of a sweep, from 1
	Spec        Spec              `json:"spec"`
	Settings    map[string]string `json:"settings"`
	Replicas    int               `json:"replicas"`   // of each partition, as they are
	Durability  string            `json:"durability"` // what an ack means
	StartedAt   time.Time         `json:"started_at"`
	LoadAverage [3]float64        `json:"load_average"` // of the machine before, over 1, 5 and 15 minutes
	Phases      []Result          `json:"phases"`
	Interrupted bool              `json:"interrupted,omitempty"` // it was ended early
}

// Result is what was measured in one phase, warm-up cut off.
type Result struct {
	Phase   string  `json:"phase"`
	Records int64   `json:"records"` // acked, or received
	Bytes   int64   `json:"bytes"`   // of their keys (when sent) and values
	Seconds float64 `json:"seconds"`

	RecordsPerS float64 `json:"records_per_s"`
	MBPerS      float64 `json:"mb_per_s"`              // 10^6 bytes
	TargetRate  float64 `json:"target_rate,omitempty"` // records/s of an open loop

	// Latencies. None in PhaseConsume.
	AvgMs  float64 `json:"avg_ms"`
	P50Ms  float64 `json:"p50_ms"`
	P95Ms  float64 `json:"p95_ms"`
	P99Ms  float64 `json:"p99_ms"`
	P999Ms float64 `json:"p999_ms"`
	MaxMs  float64 `json:"max_ms"`

	Errors     int64  `json:"errors"`                // records that failed, or whose outcome is unknown
	FirstError string `json:"first_error,omitempty"` // what the first of them said
	// Unsent are records of an open loop whose time had come but which
	// back-pressure kept from being sent before the window ended.
	Unsent int64 `json:"unsent,omitempty"`
	// Duplicates are records that were received more than once.
	Duplicates int64 `json:"duplicates,omitempty"`

	// ReadPerS is how many records per second the group that reads from the start
	// got meanwhile (PhaseJoined).
	ReadPerS float64 `json:"read_per_s,omitempty"`

	// Of the brokers, summed over System.Processes.
	CPUSeconds       float64 `json:"cpu_s"`
	CPUSPerMillion   float64 `json:"cpu_s_per_million"` // per million records
	DiskBytes        int64   `json:"disk_bytes"`        // handed to the disk or its cache
	DiskBytesPerByte float64 `json:"disk_bytes_per_byte"`
	RSSBytesMax      int64   `json:"rss_bytes_max"` // highest sum over them that a sample saw

	ClientCPUSeconds float64 `json:"client_cpu_s"` // of the process that made the load

	PerProcess []ProcessUse `json:"per_process,omitempty"`
	Series     []Sample     `json:"series,omitempty"`
	// Histogram of the latencies in microseconds: HdrHistogram V2, compressed,
	// base64, 3 digits. Empty where there are none.
	Histogram string `json:"histogram,omitempty"`
}

// ProcessUse is what one broker process used in a phase.
type ProcessUse struct {
	PID         int     `json:"pid"`
	CPUSeconds  float64 `json:"cpu_s"`
	RSSBytesMax int64   `json:"rss_bytes_max"`
	DiskBytes   int64   `json:"disk_bytes"`
}

// Sample is one interval of a phase.
type Sample struct {
	AtS     float64 `json:"at_s"` // end of the interval, from the start of the window
	Seconds float64 `json:"seconds"`
	Records int64   `json:"records"`
	MB      float64 `json:"mb"`
	P99Ms   float64 `json:"p99_ms"`
}

// Progress is told about a phase under way, about once a second.
type Progress func(Tick)

// Tick is how a phase is doing.
type Tick struct {
	Phase       string
	Warmup      bool
	At          time.Duration // since the phase or, after the warm-up, the window began
	Records     int64         // so far
	RecordsPerS float64       // of the last interval
	MBPerS      float64       // of the last interval
	P99Ms       float64       // so far; 0 where there are no latencies
}

// Durable is implemented by a System that says in a sentence what its ack
// means; it becomes Turn.Durability.
type Durable interface {
	Durability() string
}

// Replicated is implemented by a System that knows after Start how many replicas
// its partitions have; it becomes Turn.Replicas, which else is the Spec's.
type Replicated interface {
	Replicas() int
}
