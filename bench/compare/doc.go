// Package compare runs the same load on several systems in turn, A B C A B C …,
// and sets the figures of one system against those of the others, round by
// round. It knows no system: each turn is a process that reads a load.Spec and
// writes a load.Turn.
//
// Start at Run, then Summarize, then Document.
//
// Machines change from minute to minute, with their neighbours, their disks and
// their clocks. So a ratio is always of two turns of the same round, and what is
// reported is the median of the rounds' ratios with the least and the greatest,
// not the ratio of two medians. A turn that failed has no figures; it is a row
// of its own that says why.
package compare
