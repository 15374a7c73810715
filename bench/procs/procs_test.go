package procs

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

func TestUsageOfThisProcessGrowsWithWhatItDoes(t *testing.T) {
	before, err := Usage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if before.RSSBytes < 1<<20 {
		t.Errorf("RSS %d: a Go process has more than a MiB", before.RSSBytes)
	}
	deadline := time.Now().Add(30 * time.Second)
	for sum := 0; ; sum++ {
		if sum%1000 != 0 {
			continue
		}
		after, err := Usage(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if grown := after.CPUSeconds - before.CPUSeconds; grown >= 0.05 {
			if self := Self(); self < after.CPUSeconds-0.05 {
				t.Errorf("Self() = %.3f s, /proc says %.3f s", self, after.CPUSeconds)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("CPU time does not grow")
		}
	}
}

func TestStatOfAProcessWithAStrangeName(t *testing.T) {
	stat := "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 100 1000000 300 18446744073709551615 1 1"
	cpu, rss, err := parseStat([]byte(stat), 4096)
	if err != nil || cpu != 3 || rss != 300*4096 {
		t.Errorf("parseStat = %g s, %d bytes, %v; want 3 s, %d bytes", cpu, rss, err, 300*4096)
	}
	if _, _, err := parseStat([]byte("42 (x) S 1"), 4096); err == nil {
		t.Error("a short line was taken")
	}
}

func TestUsageOfAnEndedProcessIsAnError(t *testing.T) {
	c, err := Start(Command{Path: "/bin/sh", Args: []string{"-c", "exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if _, err := Usage(c.PID()); err == nil {
		t.Error("no error")
	}
	if c.Err() == nil || c.ExitCode() != 3 {
		t.Errorf("Err %v, exit code %d; want 3", c.Err(), c.ExitCode())
	}
}

func TestStopKillsWhatIgnoresSIGTERM(t *testing.T) {
	var said bytes.Buffer
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := Start(Command{Path: "/bin/sh", Args: []string{"-c", `trap "" TERM; echo up; echo last words >&2; while :; do sleep 0.05; done`}, Stdout: w, Stderr: &said})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := r.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(100 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("Stop = %v", err)
	}
	if c.LastLine() != "last words" || said.String() != "last words\n" {
		t.Errorf("last line %q, passed on %q", c.LastLine(), said.String())
	}
}

func TestMachineIsKnown(t *testing.T) {
	m := ReadMachine()
	if m.CPU == "" || m.Cores < 1 || m.MemoryBytes < 1<<28 || m.Kernel == "" {
		t.Errorf("%+v", m)
	}
}
