package history

import "testing"

// benchHistory is a history of about a million events.
func benchHistory() (events []Event, o Options) {
	w := newWorld(1, 2).withReaders(3).run(300_000, true)
	return w.events(), w.options(true)
}

func BenchmarkCheck(b *testing.B) {
	events, o := benchHistory()
	b.ResetTimer()
	for b.Loop() {
		if r := Check(events, o); !r.OK() {
			b.Fatal(r.Faults[0])
		}
	}
	b.ReportMetric(float64(len(events)), "events")
	b.ReportMetric(float64(len(events))*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkDecode(b *testing.B) {
	events, _ := benchHistory()
	var data []byte
	for _, e := range events {
		data = append(e.append(data), '\n')
	}
	b.SetBytes(int64(len(data)))
	b.ResetTimer()
	for b.Loop() {
		if _, _, err := Decode(data); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(events))*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
