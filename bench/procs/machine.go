package procs

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Machine is the machine that a figure was measured on.
type Machine struct {
	CPU         string     `json:"cpu"`
	Cores       int        `json:"cores"`
	MemoryBytes int64      `json:"memory_bytes"`
	Kernel      string     `json:"kernel"`
	Go          string     `json:"go"`
	LoadAverage [3]float64 `json:"load_average"` // before, over 1, 5 and 15 minutes
}

// ReadMachine describes this machine. What /proc does not tell stays empty.
func ReadMachine() Machine {
	m := Machine{CPU: cpuModel(readProc("cpuinfo")), Cores: runtime.NumCPU(), Go: runtime.Version(), LoadAverage: LoadAverage()}
	m.Kernel = strings.TrimSpace(readProc("sys/kernel/ostype") + " " + readProc("sys/kernel/osrelease"))
	if kib, err := field([]byte(readProc("meminfo")), "MemTotal:"); err == nil {
		m.MemoryBytes = kib << 10
	}
	return m
}

// LoadAverage is the machine's, over 1, 5 and 15 minutes; zeros where it is not
// to be had.
func LoadAverage() [3]float64 {
	var l [3]float64
	_, _ = fmt.Sscan(readProc("loadavg"), &l[0], &l[1], &l[2]) // stays zero
	return l
}

func readProc(name string) string {
	raw, err := os.ReadFile("/proc/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

func cpuModel(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
