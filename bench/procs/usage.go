package procs

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Use is what a process used since it began.
type Use struct {
	CPUSeconds float64 // user and system, of all its threads, also those that ended
	RSSBytes   int64   // at the moment
	// WriteBytes is what it handed to the disk or its cache: a page counts when it
	// becomes dirty, so small writes count as pages. Files in memory (tmpfs) do
	// not count.
	WriteBytes int64
}

// ticksPerSecond is the unit of the CPU times in /proc: USER_HZ, which is 100 on
// every platform that Go runs on.
const ticksPerSecond = 100

// Usage reads /proc (see proc(5)). Errors: the process has ended, or belongs to
// another user.
func Usage(pid int) (Use, error) {
	var u Use
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return u, fmt.Errorf("process %d: %w", pid, err)
	}
	if u.CPUSeconds, u.RSSBytes, err = parseStat(stat, int64(os.Getpagesize())); err != nil {
		return u, fmt.Errorf("process %d: %w", pid, err)
	}
	io, err := os.ReadFile(dir + "/io")
	if err != nil {
		return u, fmt.Errorf("process %d: %w", pid, err)
	}
	if u.WriteBytes, err = field(io, "write_bytes:"); err != nil {
		return u, fmt.Errorf("process %d: %w", pid, err)
	}
	return u, nil
}

// parseStat reads /proc/PID/stat. The second field, the name, may hold blanks
// and parentheses, so the fields are counted from the last parenthesis.
func parseStat(stat []byte, pageBytes int64) (cpuSeconds float64, rssBytes int64, err error) {
	const afterName, utime, stime, rss = 3, 14, 15, 24 // numbered as in proc(5)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= rss-afterName {
		return 0, 0, fmt.Errorf("/proc stat has %d fields, too few", len(fields))
	}
	var values [3]int64
	for i, n := range [...]int{utime, stime, rss} {
		if values[i], err = strconv.ParseInt(fields[n-afterName], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("/proc stat field %d: %w", n, err)
		}
	}
	return float64(values[0]+values[1]) / ticksPerSecond, values[2] * pageBytes, nil
}

// field returns the number behind name in a file of "name number" lines.
func field(text []byte, name string) (int64, error) {
	for line := range bytes.Lines(text) {
		words := strings.Fields(string(line))
		if len(words) >= 2 && words[0] == name {
			return strconv.ParseInt(words[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("no line %q", name)
}

// Self returns the CPU seconds of this process, user and system.
func Self() float64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0 // cannot fail for RUSAGE_SELF
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds()
}
