package natsapi

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
)

// natsLogger writes the NATS server's lines to slog. The server's notices are
// debug lines here: they are about its own life, which nobody asked for.
type natsLogger struct {
	logger *slog.Logger
	level  slog.Leveler
	// last is the newest fatal line; the server logs it and goes on half dead.
	last atomic.Pointer[string]
}

func (l *natsLogger) log(level slog.Level, format string, args []any) {
	if level < l.level.Level() {
		return
	}
	l.logger.Log(context.Background(), level, "nats server", slog.String("line", fmt.Sprintf(format, args...)))
}

// debug reports whether debug lines are wanted, as the server wants to know.
func (l *natsLogger) debug() bool { return l.level.Level() < slog.LevelDebug }

// fatal returns the newest fatal line.
func (l *natsLogger) fatal() string {
	if p := l.last.Load(); p != nil {
		return *p
	}
	return "no reason was given; raise log.nats_level"
}

func (l *natsLogger) Noticef(format string, v ...any) { l.log(slog.LevelDebug, format, v) }
func (l *natsLogger) Errorf(format string, v ...any)  { l.log(slog.LevelError, format, v) }
func (l *natsLogger) Debugf(format string, v ...any)  { l.log(slog.LevelDebug-1, format, v) }
func (l *natsLogger) Tracef(format string, v ...any)  { l.log(slog.LevelDebug-2, format, v) }

// Warnf drops the advice to store passwords hashed: the only one there is, is
// random and never leaves the process.
func (l *natsLogger) Warnf(format string, v ...any) {
	if !strings.HasPrefix(format, "Plaintext passwords") {
		l.log(slog.LevelWarn, format, v)
	}
}

func (l *natsLogger) Fatalf(format string, v ...any) {
	line := fmt.Sprintf(format, v...)
	l.last.Store(&line)
	l.log(slog.LevelError, format, v)
}
