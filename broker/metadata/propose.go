package metadata

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/raftnode"
)

// propose puts a command through the metadata shard and waits until the local
// image shows its effect. It tries again, with the same bytes, until ctx ends
// (give it a deadline: without a majority nothing else ends it), so a command
// must mean the same when it is applied twice. The error is an
// *errcode.Error: the state machine's refusal, or what giveUp says.
func (s *Store) propose(ctx context.Context, c command, body any) (result, error) {
	c.TimeMs = s.clock().UnixMilli()
	data := encode(c, body)
	unknown := false
	for {
		answer, err := s.attempt(ctx, data)
		if err == nil {
			return s.settled(ctx, answer)
		}
		unknown = unknown || errors.Is(err, raftnode.ErrUnknown)
		s.logger.Debug("metadata proposal failed", slog.String("kind", c.Kind), slog.Any("err", err))
		if final(err) || !s.pause(ctx) {
			return result{}, giveUp(c.Kind, unknown, err)
		}
	}
}

// final says whether another attempt would end the same way.
func final(err error) bool {
	code := errcode.Of(err)
	return code == errcode.ShuttingDown || code == errcode.MessageTooLarge
}

// attempt proposes once.
func (s *Store) attempt(ctx context.Context, data []byte) (raftnode.Result, error) {
	raft := s.raft.Load()
	if raft == nil {
		return raftnode.Result{}, errcode.New(errcode.LeaderNotAvailable, "this node has not opened its metadata yet")
	}
	bounded, cancel := context.WithTimeout(ctx, s.attemptTimeout)
	defer cancel()
	return (*raft).ProposeWait(bounded, ShardID, data)
}

// settled reads the state machine's answer and waits for the image behind it.
func (s *Store) settled(ctx context.Context, answer raftnode.Result) (result, error) {
	var r result
	if err := json.Unmarshal(answer.Data, &r); err != nil {
		return r, errcode.New(errcode.UnknownServerError, "the metadata answered what this node cannot read: %v", err)
	}
	if err := r.err(); err != nil {
		return r, err
	}
	if _, err := s.WaitFor(ctx, func(m *Image) bool { return m.Index >= r.Index }); err != nil {
		return r, errcode.New(errcode.RequestTimedOut, "the change was made, but this node has not seen it yet; look again")
	}
	return r, nil
}

// pause waits before the next attempt; false when ctx ended.
func (s *Store) pause(ctx context.Context) bool {
	timer := time.NewTimer(s.retryDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// giveUp is the answer when ctx ended without one. Only where some attempt may
// have got through is the outcome unknown.
func giveUp(kind string, unknown bool, last error) error {
	if unknown {
		return errcode.New(errcode.RequestTimedOut, "%s: no answer from the metadata in time; it may still take effect, a retry with the same request id is safe (%v)", kind, last)
	}
	if final(last) {
		return errcode.From(last)
	}
	return errcode.New(errcode.LeaderNotAvailable, "%s: the metadata has no leader, nothing was changed; check that a majority of the nodes is up: logbroker cluster health (%v)", kind, last)
}

// Barrier returns once the local image holds everything that was acknowledged
// anywhere before the call. It tries until ctx ends; then LEADER_NOT_AVAILABLE.
func (s *Store) Barrier(ctx context.Context) error {
	for {
		err := s.readIndex(ctx)
		if err == nil {
			return nil
		}
		if final(err) || !s.pause(ctx) {
			return giveUp("reading the metadata", false, err)
		}
	}
}

func (s *Store) readIndex(ctx context.Context) error {
	raft := s.raft.Load()
	if raft == nil {
		return errcode.New(errcode.LeaderNotAvailable, "this node has not opened its metadata yet")
	}
	bounded, cancel := context.WithTimeout(ctx, s.attemptTimeout)
	defer cancel()
	return (*raft).ReadIndex(bounded, ShardID)
}

// requestID returns id, or a fresh one.
func requestID(id string) string {
	if id != "" {
		return id
	}
	return rand.Text()
}
