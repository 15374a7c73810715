package cluster

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/producer"
)

func TestReaderFollowsTheLeaderWithoutLossOrRepeat(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Configure: quietLeaders})
	c.CreateTopic("followed", 1, 3, nil)
	leader := c.WaitLeader("followed", 0)
	l := startLoad(c, "followed", 0, 20, 200)
	r := c.read("followed", 0, consumer.FromEarliest())
	next := uint64(0)
	readTo := func(n uint64) {
		t.Helper()
		for next < n {
			rec, err := r.Next(within(t, waitTimeout))
			if err != nil {
				t.Fatal(err)
			}
			if got := binary.BigEndian.Uint64(rec.Value); got != next || rec.Offset != int64(next) {
				t.Fatalf("read record %d at offset %d, want record and offset %d", got, rec.Offset, next)
			}
			next++
		}
	}
	readTo(2000)
	for range 3 {
		leader = leader%3 + 1
		c.Transfer("followed", 0, leader)
		readTo(next + 2000)
	}
	c.Stop(leader)
	readTo(next + 2000)
	c.WaitLeader("followed", 0, leader)
	c.Restart(leader)
	l.end(t)
	readTo(uint64(l.count()))
	l.check(t, c, "followed", 0)
	t.Logf("%d records followed through 4 leader changes", next)
}

func TestReaderStartsAtEarliestLatestOffsetAndTime(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	c.CreateTopic("starts", 1, 3, nil)
	p := c.produce()
	base := time.Now().Add(-time.Hour).Truncate(time.Second)
	for i := range 100 {
		_, err := p.Send(within(t, waitTimeout), producer.Record{
			Topic: "starts", Value: fmt.Append(nil, i), Timestamp: base.Add(time.Duration(i) * time.Second),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Client().Admin().TrimTopic(within(t, waitTimeout), "starts", 0, 10); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		name string
		opt  consumer.Option
		want int64
	}{
		{"earliest is the log start", consumer.FromEarliest(), 10},
		{"an offset", consumer.FromOffset(42), 42},
		{"a record's time", consumer.FromTime(base.Add(50 * time.Second)), 50},
		{"between two records", consumer.FromTime(base.Add(50*time.Second + time.Millisecond)), 51},
		{"before the first", consumer.FromTime(base.Add(-time.Hour)), 10},
		{"after the last", consumer.FromTime(time.Now()), 100},
		{"latest", consumer.FromLatest(), 100},
	} {
		r := c.read("starts", 0, s.opt)
		if got := r.Position(); got != s.want {
			t.Errorf("%s: position %d, want %d", s.name, got, s.want)
		}
		if s.want < 100 {
			rec, err := r.Next(within(t, waitTimeout))
			if err != nil || rec.Offset != s.want || string(rec.Value) != fmt.Sprint(s.want) {
				t.Errorf("%s: read %+v, %v", s.name, rec, err)
			}
		}
	}
	latest := c.read("starts", 0, consumer.FromLatest())
	if _, err := p.Send(within(t, waitTimeout), producer.Record{Topic: "starts", Value: []byte("new")}); err != nil {
		t.Fatal(err)
	}
	if rec, err := latest.Next(within(t, waitTimeout)); err != nil || string(rec.Value) != "new" {
		t.Errorf("a reader from latest read %+v, %v", rec, err)
	}
}
