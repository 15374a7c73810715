package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"logbroker/bench/load"
)

const (
	calibrationRounds = 2
	calibrationTurn   = 700 * time.Millisecond
)

// calibrate measures both publish paths in turn on streams of its own, sets the
// faster one, and says what it saw. Its payload is random: the server does not
// look into it.
func (s *jetStreamSystem) calibrate(ctx context.Context, streams int) (string, error) {
	made, err := s.createStreams(ctx, "calibration", streams)
	if err != nil {
		return "", err
	}
	value := make([]byte, s.spec.RecordSize)
	source := rand.NewChaCha8([32]byte{byte(s.spec.Seed)})
	_, _ = source.Read(value) // never fails
	rates := map[string]float64{}
	for range calibrationRounds {
		for _, path := range []string{pathAsync, pathFast} {
			rate, err := s.tryPath(ctx, made, path, value)
			if err != nil {
				return "", fmt.Errorf("calibration of path %s: %w", path, err)
			}
			rates[path] = max(rates[path], rate)
		}
	}
	s.path = pathAsync
	if rates[pathFast] > rates[pathAsync] {
		s.path = pathFast
	}
	if err := s.deleteStreams(ctx, made); err != nil {
		return "", err
	}
	return fmt.Sprintf("by calibration before the warm-up: async %.0f records/s, fast %.0f records/s", rates[pathAsync], rates[pathFast]), nil
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
