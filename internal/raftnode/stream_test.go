package raftnode

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"logbroker/internal/errcode"
)

func TestAStreamBringsWhatItsHandlerWrites(t *testing.T) {
	server, client := newEndpoint(t, EndpointOptions{}), newEndpoint(t, EndpointOptions{})
	random := make([]byte, 3*streamFrameBytes+1000)
	for i := range random {
		random[i] = byte(rand.N(256))
	}
	server.HandleStream(func(_ context.Context, request []byte, w io.Writer) error {
		n := int(request[0])<<16 | int(request[1])<<8 | int(request[2])
		for at := 0; at < n; at += 70_000 {
			if _, err := w.Write(random[at:min(n, at+70_000)]); err != nil {
				return err
			}
		}
		return nil
	})
	for _, n := range []int{0, 1, streamFrameBytes - 1, streamFrameBytes, streamFrameBytes + 1, len(random)} {
		s, err := client.Stream(t.Context(), server.Addr(), []byte{byte(n >> 16), byte(n >> 8), byte(n)})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(got, random[:n]) {
			t.Errorf("%d bytes of %d, %v", len(got), n, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAStreamIsRefusedByCodeOrBrokenOffButNeverShort(t *testing.T) {
	server, client := newEndpoint(t, EndpointOptions{}), newEndpoint(t, EndpointOptions{})
	if _, err := client.Stream(t.Context(), server.Addr(), nil); errcode.Of(err) != errcode.LeaderNotAvailable {
		t.Errorf("without a handler: %v", err)
	}
	server.HandleStream(func(_ context.Context, request []byte, w io.Writer) error {
		if string(request) == "late" {
			if _, err := w.Write(make([]byte, 2*streamFrameBytes)); err != nil {
				return err
			}
		}
		return errcode.New(errcode.OffsetOutOfRange, "no such thing")
	})
	if _, err := client.Stream(t.Context(), server.Addr(), []byte("early")); errcode.Of(err) != errcode.OffsetOutOfRange {
		t.Errorf("refused: %v", err)
	}
	s, err := client.Stream(t.Context(), server.Addr(), []byte("late"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := io.ReadAll(s); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("broken off: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Stream(ctx, server.Addr(), []byte("late")); err == nil {
		t.Error("a cancelled stream was opened")
	}
}

func TestASilentStreamEndsWithItsContext(t *testing.T) {
	server, client := newEndpoint(t, EndpointOptions{}), newEndpoint(t, EndpointOptions{})
	server.HandleStream(func(ctx context.Context, _ []byte, w io.Writer) error {
		if _, err := w.Write(make([]byte, streamFrameBytes)); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := client.Stream(ctx, server.Addr(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := io.ReadFull(s, make([]byte, streamFrameBytes)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
