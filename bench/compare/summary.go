package compare

import (
	"encoding/json"
	"slices"

	"logbroker/bench/load"
)

// DocumentFormat marks the JSON files of the command compare.
const DocumentFormat = "logbroker-bench-compare/1"

// Document is the JSON file of the command compare: that of the other commands,
// with every turn that has figures, and the comparison.
type Document struct {
	load.Document
	Settings Settings         `json:"settings"`
	Rounds   []Row            `json:"rounds"` // one per turn, in the order they were run
	Ratios   map[string]Ratio `json:"ratios"` // by the system that Subject is set against
}

// Settings is what was compared.
type Settings struct {
	Subject string                    `json:"subject"` // the system whose figures are divided by the others'
	Rounds  int                       `json:"rounds"`
	Spec    load.Spec                 `json:"spec"`
	Systems map[string]SystemSettings `json:"systems"`
}

// SystemSettings is what a system said about itself in the first turn that got so far.
type SystemSettings struct {
	Durability string            `json:"durability"`
	Settings   map[string]string `json:"settings"`
}

// Spread is a ratio over the rounds; nil where no round has it.
type Spread struct {
	Median   *float64   `json:"median"`
	Min      *float64   `json:"min"`
	Max      *float64   `json:"max"`
	PerRound []*float64 `json:"per_round"` // null where one of the two turns has no figure
}

// Ratio sets the subject against one other system, round by round: its figure
// divided by the other's.
type Ratio struct {
	Spread // of records/s in phase produce
	// Others are the ratios of all figures, by Metric.Name.
	Others map[string]Spread `json:"others"`
	// FailedRounds are rounds in which one of the two turns failed.
	FailedRounds int `json:"failed_rounds"`
}

// MarshalJSON writes a Ratio with its others beside median, min and max.
func (r Ratio) MarshalJSON() ([]byte, error) {
	flat := map[string]any{
		"median": r.Median, "min": r.Min, "max": r.Max, "per_round": r.PerRound, "failed_rounds": r.FailedRounds,
	}
	for name, spread := range r.Others {
		flat[name] = spread
	}
	return json.Marshal(flat)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Ratio) UnmarshalJSON(raw []byte) error {
	if err := json.Unmarshal(raw, &r.Spread); err != nil {
		return err
	}
	var flat map[string]json.RawMessage
	if err := json.Unmarshal(raw, &flat); err != nil {
		return err
	}
	if failed, ok := flat["failed_rounds"]; ok {
		if err := json.Unmarshal(failed, &r.FailedRounds); err != nil {
			return err
		}
	}
	r.Others = make(map[string]Spread)
	for _, m := range Metrics() {
		if of, ok := flat[m.Name]; ok {
			var s Spread
			if err := json.Unmarshal(of, &s); err != nil {
				return err
			}
			r.Others[m.Name] = s
		}
	}
	return nil
}

// Summarize makes the document of rows and turns, as Run returned them. header
// carries what all documents say of machine, time and commit; subject is the
// system that is set against the others.
func Summarize(header load.Document, subject string, p Plan, rows []Row, turns []load.Turn) Document {
	d := Document{Document: header, Rounds: rows, Ratios: make(map[string]Ratio)}
	d.Format = DocumentFormat
	for _, turn := range turns {
		d.Add(turn)
	}
	d.Settings = Settings{Subject: subject, Rounds: p.Rounds, Spec: p.Spec, Systems: make(map[string]SystemSettings)}
	for i := range turns {
		// A turn that failed at its start has said nothing.
		if said := d.Settings.Systems[turns[i].System]; len(said.Settings) == 0 {
			d.Settings.Systems[turns[i].System] = SystemSettings{turns[i].Durability, turns[i].Settings}
		}
	}
	for _, system := range d.Systems() {
		if system != subject {
			d.Ratios[system] = ratioOf(rows, subject, system)
		}
	}
	return d
}

// Systems are the systems in the order of their turns.
func (d *Document) Systems() []string {
	var systems []string
	for i := range d.Rounds {
		if !slices.Contains(systems, d.Rounds[i].System) {
			systems = append(systems, d.Rounds[i].System)
		}
	}
	return systems
}

// ratioOf pairs the two systems' rows by round.
func ratioOf(rows []Row, subject, other string) Ratio {
	last := 0
	turns := make(map[string]map[int]*Row)
	for i := range rows {
		r := &rows[i]
		if turns[r.System] == nil {
			turns[r.System] = make(map[int]*Row)
		}
		turns[r.System][r.Round] = r
		last = max(last, r.Round)
	}
	ratio := Ratio{Others: make(map[string]Spread)}
	for _, m := range Metrics() {
		perRound := make([]*float64, last)
		for round := 1; round <= last; round++ {
			perRound[round-1] = quotient(m, turns[subject][round], turns[other][round])
		}
		ratio.Others[m.Name] = spreadOf(perRound)
	}
	ratio.Spread = ratio.Others["records_per_s"]
	for round := 1; round <= last; round++ {
		a, b := turns[subject][round], turns[other][round]
		if a == nil || b == nil || a.Failed != "" || b.Failed != "" {
			ratio.FailedRounds++
		}
	}
	return ratio
}

// quotient is a's figure divided by b's; nil where one is missing, or b's is 0.
func quotient(m Metric, a, b *Row) *float64 {
	if a == nil || b == nil {
		return nil
	}
	over, under := m.Of(a), m.Of(b)
	if over == nil || under == nil || *under == 0 {
		return nil
	}
	return pointer(*over / *under)
}

// spreadOf takes median, least and greatest of the values that are there.
func spreadOf(values []*float64) Spread {
	s := Spread{PerRound: values}
	var known []float64
	for _, v := range values {
		if v != nil {
			known = append(known, *v)
		}
	}
	if len(known) == 0 {
		return s
	}
	slices.Sort(known)
	s.Median, s.Min, s.Max = pointer(median(known)), &known[0], &known[len(known)-1]
	return s
}

// median of sorted values, of which there is one at least.
func median(sorted []float64) float64 {
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// Of returns how a figure of a system spreads over the rounds.
func (d *Document) Of(system string, m Metric) Spread {
	var values []*float64
	for i := range d.Rounds {
		if d.Rounds[i].System == system {
			values = append(values, m.Of(&d.Rounds[i]))
		}
	}
	return spreadOf(values)
}
