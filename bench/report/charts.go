package report

import (
	"fmt"
	"math"

	"logbroker/bench/compare"
	"logbroker/bench/load"
)

// sampleLeast is the shortest interval, in seconds, whose rate says something:
// the end of a phase may leave a few milliseconds.
const sampleLeast = 0.5

// throughputCharts draw records/s over time, a chart per phase that has a
// series; a system's rounds lie over each other.
func (f *File) throughputCharts() []chart {
	var charts []chart
	for _, name := range []string{load.PhaseProduce, load.PhaseConsume, load.PhaseE2E} {
		var lines []dataLine
		longest, most := 0.0, 0.0
		for i, s := range f.series() {
			for _, t := range s.turns {
				r := phase(t, name)
				if r == nil || len(r.Series) == 0 {
					continue
				}
				l := dataLine{name: s.name, series: i}
				for n, sample := range r.Series {
					if n > 0 && sample.Seconds < sampleLeast {
						continue
					}
					rate := float64(sample.Records) / max(sample.Seconds, 1e-3)
					l.x, l.y = append(l.x, sample.AtS), append(l.y, rate)
					longest, most = max(longest, sample.AtS), max(most, rate)
				}
				lines = append(lines, l)
			}
		}
		if len(lines) == 0 {
			continue
		}
		c := lineChart("Throughput over time, phase "+name, linear(longest), linear(most), lines)
		c.XLabel, c.YLabel = "seconds", "records/s"
		charts = append(charts, c)
	}
	return charts
}

// latencyCharts draw percentiles, a chart per phase that has latencies. The
// rounds of a system are counted together.
func (f *File) latencyCharts() ([]chart, error) {
	titles := map[string]string{
		load.PhaseProduce: "from Send to ack, as fast as it goes or at the target rate",
		load.PhaseLatency: fmt.Sprintf("at %g of each one's own maximum, from the intended send time", f.spec().LatencyShare),
		load.PhaseAlone:   "one record at a time",
		load.PhaseE2E:     "from the intended send time to delivered at a consumer group",
	}
	var charts []chart
	for _, name := range []string{load.PhaseLatency, load.PhaseAlone, load.PhaseE2E, load.PhaseProduce} {
		c, err := f.latencyChart(name, "Latency percentiles: "+titles[name])
		if err != nil {
			return nil, err
		}
		if len(c.Lines) > 0 {
			charts = append(charts, c)
		}
	}
	return charts, nil
}

// ninesMost is the last percentile that is drawn, p99.999, as a number of nines.
const ninesMost = 5

func (f *File) latencyChart(name, title string) (chart, error) {
	var lines []dataLine
	least, greatest, farthest := math.Inf(1), 0.0, 0.0
	for i, s := range f.series() {
		l := dataLine{name: s.name, series: i}
		var err error
		if l.x, l.y, err = percentiles(s, name); err != nil {
			return chart{}, fmt.Errorf("%s: %w", f.Name, err)
		}
		if len(l.x) == 0 {
			continue
		}
		lines = append(lines, l)
		farthest = max(farthest, l.x[len(l.x)-1])
		least, greatest = min(least, l.y[0]), max(greatest, l.y[len(l.y)-1])
	}
	if len(lines) == 0 {
		return chart{}, nil
	}
	c := lineChart(title, nines(max(int(math.Ceil(farthest)), 2)), logarithmic(least, greatest), lines)
	c.XLabel, c.YLabel = "percentile", "ms"
	return c, nil
}

// percentiles returns the latencies of a phase, all turns of s counted together:
// numbers of nines and milliseconds. It ends at the last percentile that ten
// records lie beyond.
func percentiles(s series, name string) (x, y []float64, err error) {
	sum, err := new(load.Result).Latencies()
	if err != nil {
		return nil, nil, err
	}
	for _, t := range s.turns {
		r := phase(t, name)
		if r == nil {
			continue
		}
		h, err := r.Latencies()
		if err != nil {
			return nil, nil, err
		}
		sum.Merge(h)
	}
	if sum.TotalCount() == 0 {
		return nil, nil, nil
	}
	last := min(max(math.Log10(float64(sum.TotalCount())/10), 1), ninesMost)
	for n := 0.0; n <= last+1e-9; n += 0.05 {
		x = append(x, n)
		// The percentile of nothing is the least latency there is, not 0.
		y = append(y, float64(max(sum.ValueAtPercentile(100*(1-math.Pow(10, -n))), sum.Min()))/1000)
	}
	return x, y, nil
}

// barCharts draw the figures side by side: of a comparison its medians with
// least and greatest, else what the turns measured.
func (f *File) barCharts() []chart {
	if f.hasRounds() {
		return f.comparedBars()
	}
	var charts []chart
	for _, name := range []string{load.PhaseProduce, load.PhaseConsume, load.PhaseE2E} {
		var rate, cpu []dataBar
		for i, s := range f.series() {
			r := phase(s.turns[0], name)
			if r == nil {
				continue
			}
			rate = append(rate, dataBar{name: s.name, series: i, value: r.RecordsPerS})
			if len(r.PerProcess) > 0 {
				cpu = append(cpu, dataBar{name: s.name, series: i, value: r.CPUSPerMillion})
			}
		}
		if len(rate) > 1 { // one bar compares nothing
			charts = append(charts, barChart("Records/s, phase "+name, rate))
		}
		if len(cpu) > 1 {
			charts = append(charts, barChart("Brokers' CPU-s per million records, phase "+name, cpu))
		}
	}
	return charts
}

func (f *File) comparedBars() []chart {
	var charts []chart
	for _, m := range compare.Metrics() {
		var bars []dataBar
		any := false
		for i, system := range f.Systems() {
			s := f.Of(system, m)
			b := dataBar{name: system, series: i, empty: s.Median == nil}
			if s.Median != nil {
				any = true
				b.value, b.least, b.greatest, b.hasSpread = *s.Median, *s.Min, *s.Max, *s.Min < *s.Max
			}
			bars = append(bars, b)
		}
		if any {
			c := barChart(m.Title, bars)
			if c.Note = m.Meaning; m.LessIsBetter {
				c.Note += "; less is better"
			}
			charts = append(charts, c)
		}
	}
	return charts
}
