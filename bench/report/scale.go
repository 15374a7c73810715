package report

import (
	"fmt"
	"math"
	"strconv"
)

// scale maps values to places on an axis.
type scale struct {
	at    func(v float64) float64 // 0 … 1 along the axis
	ticks []tick
}

// tick is a labelled place of an axis.
type tick struct {
	at    float64 // 0 … 1
	label string
}

// linear goes from 0 to a round number at or above greatest.
func linear(greatest float64) scale {
	step := roundStep(greatest / 4)
	top := math.Ceil(greatest/step) * step
	if greatest <= 0 {
		step, top = 1, 1
	}
	s := scale{at: func(v float64) float64 { return v / top }}
	for n := 0; float64(n)*step <= top*1.001; n++ {
		s.ticks = append(s.ticks, tick{float64(n) * step / top, short(float64(n) * step)})
	}
	return s
}

// roundStep is the least 1, 2, 2.5 or 5 times a power of ten that is not below
// v.
func roundStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 2.5, 5} {
		if m*power >= v {
			return m * power
		}
	}
	return 10 * power
}

// logarithmic covers least to greatest in whole powers of ten.
func logarithmic(least, greatest float64) scale {
	least = max(least, 1e-3)
	from := math.Floor(math.Log10(least))
	to := max(math.Ceil(math.Log10(max(greatest, least))), from+1)
	s := scale{at: func(v float64) float64 {
		return min(max((math.Log10(max(v, 1e-9))-from)/(to-from), 0), 1)
	}}
	for p := from; p <= to; p++ {
		s.ticks = append(s.ticks, tick{(p - from) / (to - from), short(math.Pow(10, p))})
	}
	return s
}

// nines is the axis of percentiles: every next nine takes as much room as the
// one before. Its values are numbers of nines, 0 for p0, 1 for p90, 2 for p99.
func nines(most int) scale {
	s := scale{at: func(v float64) float64 { return v / float64(most) }}
	for n := 0; n <= most; n++ {
		s.ticks = append(s.ticks, tick{float64(n) / float64(most), "p" + strconv.FormatFloat(100*(1-math.Pow(10, -float64(n))), 'g', n+2, 64)})
	}
	return s
}

// short writes a number for an axis: 1500 as 1.5k.
func short(v float64) string {
	for _, unit := range []struct {
		size   float64
		letter string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if math.Abs(v) >= unit.size {
			return strconv.FormatFloat(v/unit.size, 'g', 4, 64) + unit.letter
		}
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// figure writes a number for a table or a bar: three digits, or all before the
// point in groups of three.
func figure(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1000:
		return grouped(int64(math.Round(v)))
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// brief is figure where there is little room: 137502 as 137.5k.
func brief(v float64) string {
	if math.Abs(v) >= 10_000 {
		return short(v)
	}
	return figure(v)
}

func grouped(n int64) string {
	if n < 0 {
		return "-" + grouped(-n)
	}
	if n < 1000 {
		return strconv.FormatInt(n, 10)
	}
	return grouped(n/1000) + fmt.Sprintf(",%03d", n%1000)
}
