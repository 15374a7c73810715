package failures

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"logbroker/internal/history"
	"logbroker/internal/recordbatch"
)

// Outcome is what came of a play. OK is what internal/history says of everything
// the producers were told and of the final log of every replica, and that all
// was acked in the end.
type Outcome struct {
	Scenario int  `json:"scenario"`
	OK       bool `json:"ok"`
	// Stored counts the records in the final log, Acked those that the producers
	// were told are stored; Lost and Duplicated what should be 0.
	Stored     int `json:"stored"`
	Acked      int `json:"acked"`
	Lost       int `json:"lost"`
	Duplicated int `json:"duplicated"`
	// Offsets are where the records lie that were on their way when the leader
	// failed.
	Offsets []int64 `json:"offsets"`
	// Retries is how many of them a producer sent again and was told that they are
	// stored already.
	Retries int `json:"retries"`
	// Faults say what is wrong, with the events that prove it.
	Faults []string `json:"faults,omitempty"`
}

// judge reads the log of every replica, as the witness, and has the history
// judged.
func (p *play) judge() (Outcome, error) {
	o := Outcome{Scenario: p.number, Offsets: []int64{}}
	var first []byte
	for _, n := range p.cast() {
		data, err := p.readLog(n)
		if err != nil {
			return o, err
		}
		stored, err := p.witness(n, data)
		if err != nil {
			return o, err
		}
		if n == p.a {
			first, o.Stored = data, stored
		} else if !bytes.Equal(data, first) {
			o.Faults = append(o.Faults, fmt.Sprintf("the replicas on A and %s are not the same, byte for byte", p.called[n]))
		}
	}
	report := history.Check(p.log.events, history.Options{})
	o.Acked, o.Lost, o.Duplicated = report.Acked, report.Lost(), report.Count[history.Duplicate]
	for _, f := range report.Faults {
		o.Faults = append(o.Faults, f.String())
	}
	for _, s := range []*sender{p.client, p.other} {
		if s == nil {
			continue
		}
		if sent, acked := s.tally(); acked < sent {
			o.Faults = append(o.Faults, fmt.Sprintf("%d of %d batches were never acked though all is well again", sent-acked, sent))
		}
	}
	for _, r := range p.batches {
		if receipt, ok := p.client.receiptOf(r); ok {
			o.Offsets = append(o.Offsets, receipt.Offset)
			if receipt.Duplicate {
				o.Retries++
			}
		}
	}
	o.OK = len(o.Faults) == 0
	return o, nil
}

// readBytesMax is about what one read of a replica returns.
const readBytesMax = 1 << 20

// readLog returns all batches of a node's replica, as they are stored.
func (s *stage) readLog(n *node) ([]byte, error) {
	replica := s.replica(n)
	if replica == nil {
		return nil, fmt.Errorf("node %d has no replica", n.id)
	}
	var all []byte
	for next := int64(0); next < replica.HighWatermark(); {
		before := len(all)
		result, err := replica.Read(all, next, readBytesMax)
		if err != nil {
			return nil, fmt.Errorf("reading the log of node %d at offset %d: %w", n.id, next, err)
		}
		all = result.Data
		err = eachBatch(all[before:], func(b recordbatch.Batch) error {
			next = b.NextOffset()
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func eachBatch(data []byte, do func(recordbatch.Batch) error) error {
	for len(data) > 0 {
		b, rest, err := recordbatch.Parse(data)
		if err != nil {
			return err
		}
		if err := do(b); err != nil {
			return err
		}
		data = rest
	}
	return nil
}

// witness adds what a replica holds to the history, and counts it.
func (p *play) witness(n *node, data []byte) (records int, err error) {
	messages := map[string]uint64{}
	for _, s := range []*sender{p.client, p.other} {
		if s == nil {
			continue
		}
		for _, r := range s.records {
			messages[r.name] = r.message
		}
	}
	err = eachBatch(data, func(b recordbatch.Batch) error {
		if err := b.CheckCRC(); err != nil {
			return err
		}
		names, err := recordNames(b)
		for i, name := range names {
			records++
			p.log.add(history.Event{Kind: history.Stored, Replica: n.id, Offset: b.BaseOffset() + int64(i), Message: messages[name]})
		}
		return err
	})
	return records, err
}

// String returns the outcome as a line.
func (o Outcome) String() string {
	offsets := make([]string, 0, len(o.Offsets))
	for _, at := range o.Offsets {
		offsets = append(offsets, strconv.FormatInt(at, 10))
	}
	return fmt.Sprintf("scenario=%d ok=%t stored=%d acked=%d lost=%d duplicated=%d retries-recognised=%d offsets=%s",
		o.Scenario, o.OK, o.Stored, o.Acked, o.Lost, o.Duplicated, o.Retries, strings.Join(offsets, ","))
}
