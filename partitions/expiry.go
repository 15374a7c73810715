package partitions

import (
	"time"

	"logbroker/partitions/fsm"
)

// expireKeysMax bounds the producers in one command, so that an entry stays
// small.
const expireKeysMax = 1000

// producerState is a producer as of its last batch: one that wrote has another
// state.
type producerState struct {
	producer     int64
	epoch        int16
	lastSequence int32
}

// idleness is how long the producers of a partition have been silent, as seen
// by this leader since it serves: measured on the monotonic clock, and begun
// anew with each leadership, so that no clock step and no leader change can
// expire a living producer early. It belongs to the retention goroutine.
type idleness struct {
	epoch int32 // leader epoch it was measured in
	// since says when each producer was first seen in its present state.
	since map[producerState]time.Time
	// next is the since of the next pass, so that what is gone is forgotten.
	next map[producerState]time.Time
}

func (i *idleness) forget() { *i = idleness{} }

// begin begins a pass over all producers, in which silence is asked once for
// each.
func (i *idleness) begin(epoch int32) {
	if i.epoch != epoch {
		i.forget()
		i.epoch = epoch
	}
	i.next = make(map[producerState]time.Time, len(i.since))
}

// silence returns for how long the producer has been in this state.
func (i *idleness) silence(s producerState, now time.Time) time.Duration {
	since, known := i.since[s]
	if !known {
		since = now
	}
	i.next[s] = since
	return now.Sub(since)
}

func (i *idleness) end() { i.since, i.next = i.next, nil }

// expireCommands returns the commands that forget idle producers. A producer
// that writes before the command is applied stays: the command carries its last
// sequence.
func (p *Partition) expireCommands(epoch int32) (cmds [][]byte) {
	now := p.options.Clock()
	keys := p.machine.ProducerKeys(nil)
	idle := keys[:0]
	p.idle.begin(epoch)
	for _, k := range keys {
		s := producerState{producer: k.Producer, epoch: k.Epoch, lastSequence: k.LastSequence}
		if p.idle.silence(s, now) >= p.options.ProducerExpiry {
			idle = append(idle, k)
		}
	}
	p.idle.end()
	for len(idle) > 0 {
		n := min(len(idle), expireKeysMax)
		cmds = append(cmds, fsm.EncodeExpire(epoch, idle[:n]))
		idle = idle[n:]
	}
	return cmds
}
