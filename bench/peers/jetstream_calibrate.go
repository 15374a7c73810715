package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"logbroker/bench/load"
)

const (
	calibrationRounds = 2
	calibrationTurn   = 500 * time.Millisecond
)

// candidate is one way to publish.
type candidate struct {
	path    string
	streams int // per topic
}

// candidates are the ways that calibration tries: both paths on a stream per
// partition, and fast ingest on one stream per server, which makes fewer and
// larger writes.
func candidates(partitions int) []candidate {
	all := []candidate{{pathAsync, partitions}, {pathFast, partitions}}
	if partitions > jetStreamNodes {
		all = append(all, candidate{pathFast, jetStreamNodes})
	}
	return all
}

// calibrate measures the candidates in turn on streams of its own, returns the
// fastest one, and says what it saw. Its payload is random: the server does not
// look into it.
func (s *jetStreamSystem) calibrate(ctx context.Context, all []candidate) (candidate, string, error) {
	most := 0
	for _, c := range all {
		most = max(most, c.streams)
	}
	made, err := s.createStreams(ctx, "calibration", most*s.spec.Topics)
	if err != nil {
		return candidate{}, "", err
	}
	value := make([]byte, s.spec.RecordSize)
	source := rand.NewChaCha8([32]byte{byte(s.spec.Seed)})
	_, _ = source.Read(value) // never fails
	rates := make([]float64, len(all))
	for range calibrationRounds {
		for i, c := range all {
			rate, err := s.tryPath(ctx, made[:c.streams*s.spec.Topics], c.path, value)
			if err != nil {
				return candidate{}, "", fmt.Errorf("calibration of path %s: %w", c.path, err)
			}
			rates[i] = max(rates[i], rate)
		}
	}
	best, said := 0, "by calibration before the warm-up:"
	for i, c := range all {
		if rates[i] > rates[best] {
			best = i
		}
		said += fmt.Sprintf(" %s on %d streams %.0f records/s;", c.path, c.streams, rates[i])
	}
	return all[best], strings.TrimSuffix(said, ";"), s.deleteStreams(ctx, made)
}

// tryPath sends for calibrationTurn with the Spec's number of producers and
// returns the acked records per second.
func (s *jetStreamSystem) tryPath(ctx context.Context, streams []natsStream, path string, value []byte) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, calibrationTurn+batchAckTimeout)
	defer cancel()
	var acked, failed atomic.Int64
	began := time.Now()
	ended := make(chan error, s.spec.Producers)
	for range s.spec.Producers {
		go func() { // ends after calibrationTurn and its last ack
			ended <- s.pump(ctx, streams, path, value, func(err error) {
				if err != nil {
					failed.Add(1)
				} else {
					acked.Add(1)
				}
			})
		}()
	}
	var err error
	for range s.spec.Producers {
		err = errors.Join(err, <-ended)
	}
	if err == nil && failed.Load() > 0 {
		err = fmt.Errorf("%d records failed", failed.Load())
	}
	return float64(acked.Load()) / time.Since(began).Seconds(), err
}

func (s *jetStreamSystem) pump(ctx context.Context, streams []natsStream, path string, value []byte, done func(error)) error {
	sender, err := s.newSender(streams, path)
	if err != nil {
		return err
	}
	defer func() { _ = sender.Close() }() // it only closes connections
	for began, n := time.Now(), 0; time.Since(began) < calibrationTurn; n++ {
		sender.Send(ctx, load.Record{Topic: n % s.spec.Topics, Value: value}, done)
	}
	return sender.Flush(ctx)
}
