package clienttest

import (
	"log"
	"testing"
)

// Main stands in for a test where there is none: in examples. The zero Main is
// ready; Stop runs what Cleanup was given.
type Main struct {
	testing.TB // nil: only the methods below may be called
	cleanups   []func()
}

// Stop runs the cleanups, last first.
func (m *Main) Stop() {
	for i := len(m.cleanups) - 1; i >= 0; i-- {
		m.cleanups[i]()
	}
}

// Cleanup implements testing.TB.
func (m *Main) Cleanup(f func()) { m.cleanups = append(m.cleanups, f) }

// Helper implements testing.TB.
func (m *Main) Helper() {}

// Fatal implements testing.TB.
func (m *Main) Fatal(args ...any) { log.Fatal(args...) }

// Fatalf implements testing.TB.
func (m *Main) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }

// Error implements testing.TB.
func (m *Main) Error(args ...any) { log.Fatal(args...) }
