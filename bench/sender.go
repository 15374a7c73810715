package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"logbroker/bench/load"
	"logbroker/consumer"
	"logbroker/producer"
)

// closeTimeout bounds the leaving of a client whose work is done.
const closeTimeout = 10 * time.Second

// sender is a producer as a load.Sender.
type sender struct {
	p      *producer.Producer
	topics []topic
}

// NewSender returns a producer with the options of the Spec.
func (s *system) NewSender(ctx context.Context, _ int) (load.Sender, error) {
	options, err := newOptions(&s.spec)
	if err != nil {
		return nil, err
	}
	p, err := producer.New(ctx, s.servers, options...)
	if err != nil {
		return nil, err
	}
	return &sender{p: p, topics: s.topics}, nil
}

func (s *sender) Send(ctx context.Context, r load.Record, done func(error)) {
	s.p.SendAsync(ctx, producer.Record{Topic: s.topics[r.Topic].name, Key: r.Key, Value: r.Value},
		func(_ producer.Receipt, err error) { done(err) })
}

func (s *sender) Flush(ctx context.Context) error { return s.p.Flush(ctx) }

func (s *sender) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return s.p.Close(ctx)
}

// pollMax is how many records are taken at once.
const pollMax = 2000

// readers are Readers of several partitions as a load.Receiver.
type readers struct{ all []*consumer.Reader }

// NewReceiver returns readers of consumer n's share of the partitions, or a
// member of the turn's group.
func (s *system) NewReceiver(ctx context.Context, n int, group bool) (load.Receiver, error) {
	if group {
		return s.newMember(ctx)
	}
	r, number := &readers{}, 0
	for _, t := range s.topics {
		for p := range t.partitions {
			mine := number%s.spec.Consumers == n
			number++
			if !mine {
				continue
			}
			reader, err := consumer.NewReader(ctx, s.servers, t.name, p, consumer.WithName("bench"))
			if err != nil {
				return nil, errors.Join(err, r.Close())
			}
			r.all = append(r.all, reader)
		}
	}
	return r, nil
}

// Receive reads all partitions at once, each in a goroutine of its own that ends
// before Receive does.
func (r *readers) Receive(ctx context.Context, visit func([][]byte)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(r.all))
	var group sync.WaitGroup
	for i, reader := range r.all {
		group.Go(func() {
			if errs[i] = deliver(ctx, reader.Poll, nil, visit); errs[i] != nil {
				cancel()
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// deliver polls and visits until ctx ends. mark (may be nil) is told what was
// visited.
func deliver(ctx context.Context, poll func(context.Context, int) ([]consumer.Record, error), mark func(...consumer.Record), visit func([][]byte)) error {
	values := make([][]byte, 0, pollMax)
	for {
		records, err := poll(ctx, pollMax)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end that was asked for
		}
		if err != nil {
			return err
		}
		values = values[:0]
		for i := range records {
			values = append(values, records[i].Value)
		}
		visit(values)
		if mark != nil {
			mark(records...)
		}
	}
}

func (r *readers) Close() error {
	var errs []error
	for _, reader := range r.all {
		errs = append(errs, reader.Close())
	}
	return errors.Join(errs...)
}

// member is a member of a consumer group as a load.Receiver.
type member struct{ c *consumer.Consumer }

func (s *system) newMember(ctx context.Context) (load.Receiver, error) { return s.join(ctx, s.group) }

// NewMember joins a group of its own.
func (s *system) NewMember(ctx context.Context, group string) (load.Receiver, error) {
	return s.join(ctx, s.group+"-"+group)
}

func (s *system) join(ctx context.Context, group string) (load.Receiver, error) {
	var names []string
	for _, t := range s.topics {
		names = append(names, t.name)
	}
	c, err := consumer.New(ctx, s.servers, group, names, consumer.FromEarliest(), consumer.WithName("bench"))
	if err != nil {
		return nil, fmt.Errorf("joining group %s: %w", group, err)
	}
	return &member{c}, nil
}

func (m *member) Receive(ctx context.Context, visit func([][]byte)) error {
	return deliver(ctx, m.c.Poll, m.c.Mark, visit)
}

// Close commits what was delivered and leaves.
func (m *member) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return m.c.Drain(ctx)
}
