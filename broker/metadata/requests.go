package metadata

import "logbroker/internal/errcode"

// requestsMax is how many request ids are remembered.
const requestsMax = 1000

// requests remembers what the last requests were answered, so that a command
// that is proposed twice is carried out once.
//
// Invariant: byID has exactly the ids of order; len(order) ≤ requestsMax.
type requests struct {
	order []remembered // oldest first
	byID  map[string]remembered
}

// remembered is a request and its answer. Kind tells a repeated request from
// another one that came with the same id.
type remembered struct {
	ID     string `json:"id"`
	Kind   string `json:"kind"`
	Result result `json:"result"`
}

func newRequests() requests { return requests{byID: map[string]remembered{}} }

// answer returns what a command with c's request id was answered before.
func (q *requests) answer(c command) (result, bool) {
	old, ok := q.byID[c.RequestID]
	if !ok || c.RequestID == "" {
		return result{}, false
	}
	if old.Kind != c.Kind {
		return refused(errcode.New(errcode.InvalidRequest,
			"request id %q was used for %s before; use a new one for each request", c.RequestID, old.Kind)), true
	}
	return old.Result, true
}

// remember keeps the answer to c. An answer that may be another one next time
// without anyone's doing is not kept.
func (q *requests) remember(c command, r result) {
	if c.RequestID == "" || r.Code.Retriable() || r.Code == errcode.UnsupportedVersion {
		return
	}
	q.put(remembered{ID: c.RequestID, Kind: c.Kind, Result: r})
}

func (q *requests) put(r remembered) {
	if len(q.order) == requestsMax {
		delete(q.byID, q.order[0].ID)
		q.order = append(q.order[:0:0], q.order[1:]...)
	}
	q.order = append(q.order, r)
	q.byID[r.ID] = r
}
