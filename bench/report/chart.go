package report

import (
	"fmt"
	"math"
	"strings"
)

// The size of a chart in its own units; a page scales it. Two charts beside each
// other on a screen have about this width in pixels, so words keep their size.
const (
	chartWidth                          = 540.0
	lineHeight                          = 290.0
	marginLeft, marginRight             = 52.0, 30.0
	marginTop, marginBottom             = 26.0, 44.0
	barLabel, barRow, barThick, barText = 124.0, 28.0, 16.0, 186.0
	barTop                              = 4.0
)

// chart is what the template draws: all places are computed here.
type chart struct {
	Title, Note    string // what it shows, and what that means
	Width, Height  float64
	Grid           []mark // lines across with their labels
	Columns        []mark // labels below
	XLabel, YLabel string
	Lines          []drawnLine
	Bars           []drawnBar
	Legend         []legendEntry
	// The plot's own box.
	Left, Top, Right, Bottom float64
}

type mark struct {
	At    float64
	Label string
}

type drawnLine struct {
	Name, Class, Path string
}

type drawnBar struct {
	Name, Class, Value     string
	Y, Height, Width, Text float64 // Text is the y of the words
	// A whisker from the least to the greatest value.
	Whisker         bool
	Least, Greatest float64
	Middle          float64
	ValueX          float64
}

type legendEntry struct{ Name, Class string }

// classOf is the colour of series number i; the page knows eight.
func classOf(i int) string { return fmt.Sprintf("s%d", i%8) }

// dataLine is a line before it has places. Lines of one series share a colour
// and a place in the legend.
type dataLine struct {
	name   string
	series int
	x, y   []float64
}

// lineChart draws lines on the two scales.
func lineChart(title string, x, y scale, lines []dataLine) chart {
	c := chart{
		Title: title, Width: chartWidth, Height: lineHeight,
		Left: marginLeft, Top: marginTop, Right: chartWidth - marginRight, Bottom: lineHeight - marginBottom,
	}
	placeX := func(v float64) float64 { return c.Left + x.at(v)*(c.Right-c.Left) }
	placeY := func(v float64) float64 { return c.Bottom - y.at(v)*(c.Bottom-c.Top) }
	for _, t := range y.ticks {
		c.Grid = append(c.Grid, mark{c.Bottom - t.at*(c.Bottom-c.Top), t.label})
	}
	for _, t := range x.ticks {
		c.Columns = append(c.Columns, mark{c.Left + t.at*(c.Right-c.Left), t.label})
	}
	named := make(map[int]bool)
	for _, l := range lines {
		var path strings.Builder
		for i := range l.x {
			verb := "L"
			if i == 0 {
				verb = "M"
			}
			fmt.Fprintf(&path, "%s%.1f %.1f ", verb, placeX(l.x[i]), placeY(l.y[i]))
		}
		c.Lines = append(c.Lines, drawnLine{Name: l.name, Class: classOf(l.series), Path: strings.TrimSpace(path.String())})
		if !named[l.series] {
			named[l.series] = true
			c.Legend = append(c.Legend, legendEntry{l.name, classOf(l.series)})
		}
	}
	return c
}

// dataBar is a bar before it has a place. A spread of nothing has no whisker.
type dataBar struct {
	name             string
	series           int
	value            float64
	least, greatest  float64
	hasSpread, empty bool // empty: there is no value
}

// barChart draws horizontal bars from 0.
func barChart(title string, bars []dataBar) chart {
	c := chart{
		Title: title, Width: chartWidth, Height: barTop + barRow*float64(len(bars)) + 6,
		Left: barLabel, Top: barTop, Right: chartWidth - barText,
	}
	c.Bottom = c.Height - 6
	greatest := 0.0
	for _, b := range bars {
		greatest = max(greatest, b.value, b.greatest)
	}
	if greatest == 0 || math.IsInf(greatest, 0) {
		greatest = 1
	}
	place := func(v float64) float64 { return v / greatest * (c.Right - c.Left) }
	for i, b := range bars {
		y := c.Top + barRow*float64(i) + (barRow-barThick)/2
		d := drawnBar{
			Name: b.name, Class: classOf(b.series), Y: y, Height: barThick, Width: place(b.value), Middle: y + barThick/2,
			Text: y + barThick - 4, Value: figure(b.value), ValueX: c.Left + place(max(b.value, b.greatest)) + 8,
		}
		if b.hasSpread {
			d.Whisker, d.Least, d.Greatest = true, c.Left+place(b.least), c.Left+place(b.greatest)
			d.Value += " (" + brief(b.least) + " … " + brief(b.greatest) + ")"
		}
		if b.empty {
			d.Value, d.Width = "not measured", 0
		}
		c.Bars = append(c.Bars, d)
	}
	return c
}
