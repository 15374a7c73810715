package testbed

import (
	"testing"

	"logbroker/internal/history"
)

// told is a load of two partitions with one record in each, both acked at offset 0,
// and what readers of it were given and told.
func told(reads []read, marks []watermark) (l *Load, stored []history.Event) {
	l = &Load{options: LoadOptions{Partitions: 2}, readers: &readers{of: []*reading{{partition: 0, reads: reads, marks: marks}, {partition: 1}}}}
	for p := range int32(2) {
		id := uint64(p + 1)
		l.lanes = append(l.lanes, &lane{id: id, partition: p, sent: []sending{{invoked: 10, answered: 20, verdict: history.OK}}})
		stored = append(stored, history.Event{Kind: history.Stored, Replica: 1, Partition: p, Message: id<<laneShift | 1})
	}
	return l, stored
}

func TestWhatReadersWereGivenAndToldIsJudged(t *testing.T) {
	t.Parallel()
	const first, second = uint64(1<<laneShift | 1), uint64(2<<laneShift | 1)
	for name, test := range map[string]struct {
		reads   []read
		marks   []watermark
		verdict history.Verdict // "": nothing is wrong
	}{
		"right":                        {[]read{{30, 0, 1, first}}, []watermark{{25, 26, 1}}, ""},
		"twice":                        {[]read{{30, 0, 1, first}, {31, 0, 1, first}}, nil, history.Skipped},
		"above the high watermark":     {[]read{{30, 0, 0, first}}, nil, history.AboveCommit},
		"not in the log":               {[]read{{30, 0, 2, first}, {31, 1, 2, first}}, nil, history.AboveCommit},
		"never sent":                   {[]read{{30, 0, 1, 0}}, nil, history.Phantom},
		"of another partition":         {[]read{{30, 0, 1, second}}, nil, history.Phantom},
		"an old watermark":             {nil, []watermark{{25, 26, 0}}, history.StaleLatest},
		"a watermark beyond the log":   {nil, []watermark{{25, 26, 2}}, history.AboveCommit},
		"an old watermark in time for": {nil, []watermark{{15, 26, 0}}, ""},
	} {
		l, stored := told(test.reads, test.marks)
		report := l.Report(stored)
		tally := count(report)
		if report.Acked != 2 || report.Reads != len(test.reads) || tally.Clean() != (test.verdict == "") || test.verdict != "" && report.Count[test.verdict] == 0 {
			t.Errorf("%s: acked %d, read %d, %v", name, report.Acked, report.Reads, report.Count)
		}
	}
}
