package failures

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// The metadata as porcupine is told of it: for each name there is a topic or none,
// and every operation takes effect at one moment between its question and its
// answer.

// verb is an operation on a topic.
type verb int

const (
	create verb = iota
	remove
	alter
	extend
	// read asks through the Raft log, peek the node's own copy: what that shows may
	// be old, but not that there is no such topic.
	read
	peek
)

// asked is an operation as it was asked for.
type asked struct {
	verb       verb
	topic      string
	partitions int   // of create and extend
	value      int64 // of create and alter: a setting of the topic
}

// answer is what came of it.
type answer int

const (
	done answer = iota
	exists
	missing
	fewer   // the topic has as many partitions already
	unknown // it may have taken effect, or may yet
)

// answered is an answer, with the topic where it has one.
type answered struct {
	answer answer
	topic  topicState
}

// topicState is what a name stands for. The zero one: there is no topic. The id is
// 0 while nobody has been told it.
type topicState struct {
	exists     bool
	id         uint64
	partitions int
	value      int64
}

// topicModel is how a topic behaves.
func topicModel() porcupine.Model {
	return porcupine.Model{
		Partition: byKey(func(o porcupine.Operation) any { return o.Input.(asked).topic }),
		Init:      func() any { return topicState{} },
		Step: func(state, input, output any) (bool, any) {
			ok, next := step(state.(topicState), input.(asked), output.(answered))
			return ok, next
		},
	}
}

func step(s topicState, in asked, out answered) (bool, topicState) {
	switch out.answer {
	case unknown:
		return true, effect(s, in, 0)
	case exists:
		return s.exists, s
	case missing:
		return !s.exists, s
	case fewer:
		return s.exists && in.partitions <= s.partitions, s
	}
	switch in.verb {
	case create:
		return !s.exists, effect(s, in, out.topic.id)
	case read, peek:
		if s.id == 0 {
			s.id = out.topic.id
		}
		return s == out.topic, s
	case extend:
		return s.exists && in.partitions > s.partitions, effect(s, in, 0)
	default:
		return s.exists, effect(s, in, 0)
	}
}

// effect returns what becomes of s; the same where in cannot be done.
func effect(s topicState, in asked, id uint64) topicState {
	switch {
	case in.verb == create && !s.exists:
		return topicState{exists: true, id: id, partitions: in.partitions, value: in.value}
	case in.verb == remove:
		return topicState{}
	case in.verb == alter && s.exists:
		s.value = in.value
	case in.verb == extend && s.exists:
		s.partitions = max(s.partitions, in.partitions)
	}
	return s
}

// idModel is how the allocation of producer ids behaves: none is given twice.
func idModel() porcupine.Model {
	return porcupine.Model{
		Partition: byKey(func(o porcupine.Operation) any { return o.Output }),
		Init:      func() any { return false },
		Step:      func(given, _, _ any) (bool, any) { return !given.(bool), true },
	}
}

// byKey splits a history by what its operations are about.
func byKey(key func(porcupine.Operation) any) func([]porcupine.Operation) [][]porcupine.Operation {
	return func(all []porcupine.Operation) [][]porcupine.Operation {
		by := map[any][]porcupine.Operation{}
		for _, o := range all {
			by[key(o)] = append(by[key(o)], o)
		}
		var out [][]porcupine.Operation
		for _, ops := range by {
			out = append(out, ops)
		}
		return out
	}
}

// operation is one entry of a history. What is unknown never ends, what may be old
// has always begun.
func operation(client int, in asked, out answered, from, to int64) porcupine.Operation {
	if out.answer == unknown {
		to = math.MaxInt64
	}
	if in.verb == peek && out.answer == done {
		from = math.MinInt64
	}
	return porcupine.Operation{ClientId: client, Input: in, Output: out, Call: from, Return: to}
}

// judgedWithin bounds the search, which a history with many unknown outcomes can
// make long.
const judgedWithin = time.Minute

// TestAWrongHistoryOfTheMetadataIsRefused changes a legal history in one place.
func TestAWrongHistoryOfTheMetadataIsRefused(t *testing.T) {
	topic := func(id uint64, partitions int, value int64) answered {
		return answered{topic: topicState{exists: true, id: id, partitions: partitions, value: value}}
	}
	ok := answered{}
	// op happens at one moment; late is its question's where that is another.
	op := func(at int64, in asked, out answered) porcupine.Operation { return operation(0, in, out, at, at) }
	legal := []porcupine.Operation{
		op(1, asked{verb: peek}, answered{answer: missing}),
		op(2, asked{verb: create, partitions: 1, value: 7}, topic(1, 0, 0)),
		op(3, asked{verb: create, partitions: 1, value: 8}, answered{answer: exists}),
		op(4, asked{verb: read}, topic(1, 1, 7)),
		op(5, asked{verb: alter, value: 9}, ok),
		op(6, asked{verb: extend, partitions: 3}, ok),
		op(7, asked{verb: extend, partitions: 2}, answered{answer: fewer}),
		op(8, asked{verb: read}, topic(1, 3, 9)),
		op(9, asked{verb: peek}, topic(1, 1, 7)),
		op(10, asked{verb: remove}, ok),
		op(11, asked{verb: read}, answered{answer: missing}),
		op(12, asked{verb: create, partitions: 2, value: 4}, answered{answer: unknown}),
		op(13, asked{verb: alter, value: 5}, answered{answer: missing}),
		op(14, asked{verb: read}, topic(2, 2, 4)),
	}
	if got := porcupine.CheckOperationsTimeout(topicModel(), legal, judgedWithin); got != porcupine.Ok {
		t.Fatal(got)
	}
	for name, m := range map[string]struct {
		at int
		in asked
		answered
	}{
		"a topic before it is created":     {0, asked{verb: read}, topic(1, 1, 7)},
		"created twice":                    {2, asked{verb: create, partitions: 1, value: 8}, topic(2, 0, 0)},
		"an acked topic is lost":           {3, asked{verb: read}, answered{answer: missing}},
		"another id":                       {3, asked{verb: read}, topic(2, 1, 7)},
		"a setting that nobody made":       {3, asked{verb: read}, topic(1, 1, 8)},
		"an acked change is lost":          {7, asked{verb: read}, topic(1, 3, 7)},
		"acked partitions are lost":        {7, asked{verb: read}, topic(1, 1, 9)},
		"fewer partitions":                 {6, asked{verb: extend, partitions: 2}, ok},
		"a refusal without a reason":       {6, asked{verb: extend, partitions: 4}, answered{answer: fewer}},
		"an old copy of what never was":    {8, asked{verb: peek}, topic(1, 3, 7)},
		"a deleted topic is back":          {10, asked{verb: read}, topic(1, 3, 9)},
		"a topic is seen, then never made": {12, asked{verb: alter, value: 5}, ok},
		"unknown, and done as another":     {13, asked{verb: read}, topic(2, 2, 6)},
	} {
		wrong := slices.Clone(legal)
		wrong[m.at] = op(int64(m.at+1), m.in, m.answered)
		if got := porcupine.CheckOperationsTimeout(topicModel(), wrong, judgedWithin); got != porcupine.Illegal {
			t.Errorf("%s: %v", strings.ToLower(name), got)
		}
	}
}

// TestAProducerIDThatIsGivenTwiceIsRefused by the model.
func TestAProducerIDThatIsGivenTwiceIsRefused(t *testing.T) {
	given := func(ids ...int64) (all []porcupine.Operation) {
		for i, id := range ids {
			all = append(all, porcupine.Operation{Output: id, Call: int64(i), Return: int64(i)})
		}
		return all
	}
	if got := porcupine.CheckOperationsTimeout(idModel(), given(1, 2, 1001, 3), judgedWithin); got != porcupine.Ok {
		t.Error(got)
	}
	if got := porcupine.CheckOperationsTimeout(idModel(), given(1, 2, 1001, 2), judgedWithin); got != porcupine.Illegal {
		t.Error(got)
	}
}
