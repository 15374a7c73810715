package main

import (
	"io"
	"log/slog"

	"logbroker/config"
	"logbroker/internal/cli"
)

// newLogger returns a logger on w as the configuration asks.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // Validate has refused anything else
	}
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" || (c.Format == "auto" && !cli.IsTerminal(w)) {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
