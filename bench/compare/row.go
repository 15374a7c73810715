package compare

import (
	"fmt"
	"slices"

	"logbroker/bench/load"
)

// Row is one turn in figures. A figure is nil (null in JSON) where the turn
// failed, where the phase it comes from was not run, or where there is nothing
// to measure it at.
type Row struct {
	Round  int    `json:"round"` // from 1
	System string `json:"system"`
	// Failed says why the turn has no figures; empty for a turn that is whole.
	Failed string `json:"failed,omitempty"`

	// From phase produce.
	RecordsPerS      *float64 `json:"records_per_s"`
	MBPerS           *float64 `json:"mb_per_s"`
	CPUSPerMillion   *float64 `json:"cpu_s_per_million"`
	DiskBytesPerByte *float64 `json:"disk_bytes_per_byte"`
	// From phase latency: at half of RecordsPerS.
	P50Ms  *float64 `json:"p50_ms"`
	P99Ms  *float64 `json:"p99_ms"`
	P999Ms *float64 `json:"p999_ms"`
	// From phase alone: one record at a time.
	AloneP50Ms *float64 `json:"alone_p50_ms"`
	AloneP99Ms *float64 `json:"alone_p99_ms"`
	// From phase consume.
	ConsumeRecordsPerS *float64 `json:"consume_records_per_s"`

	// Errors are records of all phases that failed or have an unknown outcome;
	// FirstError is what the first one said.
	Errors     int64  `json:"errors"`
	FirstError string `json:"first_error,omitempty"`
	// Unsent are records of phase latency that back-pressure kept back.
	Unsent      int64   `json:"unsent"`
	LoadAverage float64 `json:"load_average"` // of the machine before the turn, over a minute
	// Turn is the turn's place in the document's turns; null where there is none.
	Turn *int `json:"turn"`
}

// newRow takes the figures out of a turn. A turn with an error, or without a
// phase that it should have, has failed.
func newRow(round int, entrant Entrant, turn *load.Turn, err error) Row {
	row := Row{Round: round, System: entrant.System}
	switch {
	case err != nil:
		row.Failed = err.Error()
	case turn == nil:
		row.Failed = "no turn"
	case turn.System != entrant.System:
		row.Failed = fmt.Sprintf("the turn is of system %q", turn.System)
	}
	if turn == nil {
		return row
	}
	row.LoadAverage = turn.LoadAverage[0]
	if row.Failed == "" {
		row.Failed = missing(turn)
	}
	if row.Failed != "" {
		return row
	}
	for i := range turn.Phases {
		row.take(&turn.Phases[i])
	}
	return row
}

// missing names a phase of the turn that has no result, or an empty one.
func missing(turn *load.Turn) string {
	for _, phase := range turn.Spec.Phases {
		i := slices.IndexFunc(turn.Phases, func(r load.Result) bool { return r.Phase == phase })
		if i < 0 {
			return "phase " + phase + " is missing"
		}
		if r := &turn.Phases[i]; r.Records == 0 {
			return "phase " + phase + " has no records: " + r.FirstError
		}
	}
	return ""
}

func (r *Row) take(result *load.Result) {
	r.Errors += result.Errors
	if r.FirstError == "" {
		r.FirstError = result.FirstError
	}
	switch result.Phase {
	case load.PhaseProduce:
		r.RecordsPerS, r.MBPerS = &result.RecordsPerS, &result.MBPerS
		if len(result.PerProcess) > 0 { // the brokers are ours
			r.CPUSPerMillion, r.DiskBytesPerByte = &result.CPUSPerMillion, &result.DiskBytesPerByte
		}
	case load.PhaseLatency:
		r.P50Ms, r.P99Ms, r.P999Ms = &result.P50Ms, &result.P99Ms, &result.P999Ms
		r.Unsent = result.Unsent
	case load.PhaseAlone:
		r.AloneP50Ms, r.AloneP99Ms = &result.P50Ms, &result.P99Ms
	case load.PhaseConsume:
		r.ConsumeRecordsPerS = &result.RecordsPerS
	}
}

// Metric is one figure of a Row.
type Metric struct {
	Name    string // as in JSON
	Title   string // as in tables, with its unit
	Meaning string // in a sentence
	// LessIsBetter says that a smaller figure is the better one.
	LessIsBetter bool
	Of           func(*Row) *float64
}

// Metrics are the figures of a Row in the order of the tables.
func Metrics() []Metric {
	return []Metric{
		{
			"records_per_s", "records/s", "acked records per second, sent as fast as it goes", false,
			func(r *Row) *float64 { return r.RecordsPerS },
		},
		{
			"mb_per_s", "MB/s", "their keys and values before compression, in 10^6 bytes", false,
			func(r *Row) *float64 { return r.MBPerS },
		},
		{
			"cpu_s_per_million", "CPU-s/million", "CPU seconds of all brokers together, user and system, per million records produced; the clients' are not in it", true,
			func(r *Row) *float64 { return r.CPUSPerMillion },
		},
		{
			"disk_bytes_per_byte", "disk B/B", "bytes that all brokers together wrote to disk or its cache per byte of MB/s", true,
			func(r *Row) *float64 { return r.DiskBytesPerByte },
		},
		{
			"p50_ms", "p50 ms", "of the latency at half of each one's own records/s, open loop, from the intended send time to the ack", true,
			func(r *Row) *float64 { return r.P50Ms },
		},
		{
			"p99_ms", "p99 ms", "as p50 ms", true,
			func(r *Row) *float64 { return r.P99Ms },
		},
		{
			"p999_ms", "p99.9 ms", "as p50 ms", true,
			func(r *Row) *float64 { return r.P999Ms },
		},
		{
			"alone_p50_ms", "alone p50 ms", "of the latency of one record at a time, the next after the ack", true,
			func(r *Row) *float64 { return r.AloneP50Ms },
		},
		{
			"alone_p99_ms", "alone p99 ms", "as alone p50 ms", true,
			func(r *Row) *float64 { return r.AloneP99Ms },
		},
		{
			"consume_records_per_s", "consume records/s", "all that was produced, read from the start", false,
			func(r *Row) *float64 { return r.ConsumeRecordsPerS },
		},
	}
}
