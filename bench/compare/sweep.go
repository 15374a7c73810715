package compare

import "logbroker/bench/load"

// SummarizeSweep makes the document of a sweep: every turn is a row under the
// name of its point, and the figures of every point are set against those of the
// first, round by round. header carries what all documents say.
func SummarizeSweep(header load.Document, turns []load.Turn) Document {
	d := Document{Document: header, Ratios: make(map[string]Ratio)}
	for i := range turns {
		t := &turns[i]
		d.Add(*t)
		r := Row{Round: max(t.Round, 1), System: t.Point, LoadAverage: t.LoadAverage[0], Turn: pointer(i)}
		if r.Failed = missing(t); r.Failed == "" && t.Interrupted {
			r.Failed = "it was interrupted"
		}
		if r.Failed == "" {
			for j := range t.Phases {
				r.take(&t.Phases[j])
			}
		}
		d.Rounds = append(d.Rounds, r)
		d.Settings.Rounds = max(d.Settings.Rounds, r.Round)
	}
	for i, point := range d.Systems() {
		if i == 0 {
			d.Settings.Subject, d.Settings.Spec = point, turns[0].Spec
			continue
		}
		d.Ratios[point] = ratioOf(d.Rounds, point, d.Settings.Subject)
	}
	return d
}

// Sweeps reports whether d is of a sweep: its ratios are of a point to the first,
// and not of the subject to another system.
func (d *Document) Sweeps() bool { return d.Format != DocumentFormat }
