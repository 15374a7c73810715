package raftnode

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/logger"
)

// dragonboatLogs is where dragonboat's log lines go. dragonboat has one logger
// factory per process and panics when it is set twice, so this is the one piece
// of global state of the package: the Node opened last decides.
var dragonboatLogs struct {
	install sync.Once
	sink    atomic.Pointer[logSink]
}

type logSink struct {
	logger *slog.Logger
	level  slog.Level
}

// routeDragonboatLogs sends dragonboat's lines of at least level to l.
func routeDragonboatLogs(l *slog.Logger, level slog.Level) {
	dragonboatLogs.sink.Store(&logSink{logger: l, level: level})
	dragonboatLogs.install.Do(func() {
		// Another package of the process may have set a factory; then that one
		// stays, which is better than a panic.
		defer func() { _ = recover() }()
		logger.SetLoggerFactory(func(pkg string) logger.ILogger { return packageLogger{pkg: pkg} })
	})
}

// packageLogger is dragonboat's ILogger of one of its packages.
type packageLogger struct{ pkg string }

// SetLevel implements logger.ILogger; the level is the sink's.
func (packageLogger) SetLevel(logger.LogLevel) {}

// Debugf implements logger.ILogger.
func (p packageLogger) Debugf(format string, args ...any) { p.log(slog.LevelDebug, format, args) }

// Infof implements logger.ILogger.
func (p packageLogger) Infof(format string, args ...any) { p.log(slog.LevelInfo, format, args) }

// Warningf implements logger.ILogger. dragonboat warns of every step of every
// election; to an operator that is information.
func (p packageLogger) Warningf(format string, args ...any) { p.log(slog.LevelInfo, format, args) }

// Errorf implements logger.ILogger.
func (p packageLogger) Errorf(format string, args ...any) { p.log(slog.LevelError, format, args) }

// Panicf implements logger.ILogger. It must panic: dragonboat relies on not
// going on.
func (p packageLogger) Panicf(format string, args ...any) {
	p.log(slog.LevelError, format, args)
	panic(fmt.Sprintf("dragonboat "+p.pkg+": "+format, args...))
}

func (p packageLogger) log(level slog.Level, format string, args []any) {
	sink := dragonboatLogs.sink.Load()
	if sink == nil || level < sink.level || !sink.logger.Enabled(context.Background(), level) {
		return
	}
	text := strings.TrimSpace(fmt.Sprintf(format, args...))
	sink.logger.LogAttrs(context.Background(), level, "dragonboat", slog.String("package", p.pkg), slog.String("text", text))
}
