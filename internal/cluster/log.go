package cluster

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
)

// watched shows every record to see before the handler gets it.
type watched struct {
	slog.Handler
	node uint64
	see  func(node uint64, r slog.Record) // may be nil
}

// Enabled implements slog.Handler.
func (w watched) Enabled(ctx context.Context, level slog.Level) bool {
	return w.see != nil || w.Handler.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (w watched) Handle(ctx context.Context, r slog.Record) error {
	if w.see != nil {
		w.see(w.node, r)
	}
	if !w.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return w.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (w watched) WithAttrs(attrs []slog.Attr) slog.Handler {
	node := w.node
	for _, a := range attrs {
		if id, ok := a.Value.Any().(uint64); ok && a.Key == "node" && node == 0 {
			node = id // the node's own, which comes first
		}
	}
	return watched{w.Handler.WithAttrs(attrs), node, w.see}
}

// WithGroup implements slog.Handler.
func (w watched) WithGroup(name string) slog.Handler {
	return watched{w.Handler.WithGroup(name), w.node, w.see}
}

// logBuffer holds the last of what the nodes log.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

const (
	logBytesMax   = 256 << 10
	logBytesShown = 24 << 10
)

// Write implements io.Writer.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf.Len() > logBytesMax {
		l.buf.Next(l.buf.Len() / 2)
	}
	return l.buf.Write(p)
}

func (l *logBuffer) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buf.Bytes()
	return string(b[max(0, len(b)-logBytesShown):])
}
