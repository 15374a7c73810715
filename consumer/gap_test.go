package consumer

import (
	"strings"
	"testing"

	"logbroker/internal/client/clienttest"
	"logbroker/internal/recordbatch"
)

// The same reply may be lost again and again, one that is too large for the
// connection for instance. The records behind it come through, and look like a
// log with a gap: they must not be handed out in its place.
func TestALostReplyIsNeverTakenForAGapInTheLog(t *testing.T) {
	t.Parallel()
	b := clienttest.Start(t, 1)
	b.CreateTopic("orders", 1)
	const records = 4
	for range records { // each fills a reply
		b.Append("orders", 0, recordbatch.None, strings.Repeat("x", 80<<10))
	}
	b.OnFetch(func(f clienttest.Fetch) clienttest.Fault {
		if f.N <= 2*gapMax {
			return clienttest.Fault{Lose: 1}
		}
		return clienttest.Fault{}
	})
	r := open(t, b, FromEarliest())
	for want := range int64(records) {
		rec, err := r.Next(within(t))
		if err != nil || rec.Offset != want {
			t.Fatalf("offset %d, %v; want %d", rec.Offset, err, want)
		}
	}
}
