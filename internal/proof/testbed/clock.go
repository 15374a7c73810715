package testbed

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A process asks for the time in the vDSO, code that the kernel maps into it
// (vdso(7)). These pages are the process's own once they are written to, so its wall
// clock can be set without anybody else's: the function is replaced by one that asks
// the kernel and adds an offset to CLOCK_REALTIME. The monotonic clock stays right,
// as it does when a machine's clock is set.

const (
	vdsoClock = "__vdso_clock_gettime"
	// standstillMax bounds the wait until all threads have stopped, outsideTries how
	// often they are found within the vDSO.
	standstillMax = 5 * time.Second
	outsideTries  = 100
)

var errNoVDSO = errors.New("it has no vDSO")

// clockCode is int clock_gettime(clockid_t edi, struct timespec *rsi) for amd64:
//
//	mov $228, %eax; syscall; test %edi, %edi; jne 1f
//	movabs $offset, %rcx; add %rcx, (%rsi)
//	1: ret
func clockCode(offset time.Duration) []byte {
	code := []byte{0xb8, 228, 0, 0, 0, 0x0f, 0x05, 0x85, 0xff, 0x75, 13, 0x48, 0xb9}
	code = binary.LittleEndian.AppendUint64(code, uint64(offset/time.Second))
	return append(code, 0x48, 0x01, 0x0e, 0xc3)
}

// setClock sets a process's wall clock off by so many seconds from now on.
func setClock(pid int, offset time.Duration) error {
	if runtime.GOARCH != "amd64" {
		return errors.New("only known for amd64")
	}
	vdso, err := findVDSO(pid)
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close() //nolint:errcheck // errors of writing come with the write
	at, err := vdso.function(mem, vdsoClock)
	if err != nil {
		return err
	}
	defer syscall.Kill(pid, syscall.SIGCONT) //nolint:errcheck // it may have ended
	if err := vdso.leave(pid); err != nil {
		return err
	}
	_, err = mem.WriteAt(clockCode(offset), at)
	return err
}

// span is a part of a process's memory.
type span struct{ from, to uint64 }

// findVDSO reads proc_pid_maps(5).
func findVDSO(pid int) (span, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return span{}, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		var s span
		if _, err := fmt.Sscanf(line, "%x-%x", &s.from, &s.to); err != nil {
			return span{}, fmt.Errorf("the maps of process %d: %w", pid, err)
		}
		return s, nil
	}
	return span{}, fmt.Errorf("process %d: %w", pid, errNoVDSO)
}

// function returns the address of a function of the vDSO, which is an ELF file.
func (s span) function(mem *os.File, name string) (int64, error) {
	image := make([]byte, s.to-s.from)
	if _, err := mem.ReadAt(image, int64(s.from)); err != nil {
		return 0, err
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, fmt.Errorf("the vDSO: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("the vDSO: %w", err)
	}
	for _, symbol := range symbols {
		if symbol.Name == name {
			return int64(s.from + symbol.Value), nil
		}
	}
	return 0, fmt.Errorf("the vDSO has no %s", name)
}

// leave stops the process while none of its threads is within s.
func (s span) leave(pid int) error {
	for range outsideTries {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		inside, err := s.entered(pid)
		if err != nil || !inside {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			return err
		}
	}
	return fmt.Errorf("a thread of process %d is always within its vDSO", pid)
}

// entered waits until all threads have stopped, and reports whether one of them
// has stopped within s.
func (s span) entered(pid int) (inside bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), standstillMax)
	defer cancel()
	waiting := await(ctx, fmt.Sprintf("process %d stands still", pid), func() (bool, string) {
		var all bool
		all, inside, err = s.look(pid)
		return all || err != nil, "a thread runs"
	})
	return inside, errors.Join(err, waiting)
}

// look reads where each thread is: the last field of proc_pid_syscall(5), which
// says "running" of one that has not stopped.
func (s span) look(pid int) (stopped, inside bool, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return false, false, err
	}
	stopped = len(tasks) > 0
	for _, task := range tasks {
		raw, err := os.ReadFile(filepath.Join(task, "syscall"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return false, false, err
		}
		stat, err := os.ReadFile(filepath.Join(task, "stat"))
		if err != nil {
			return false, false, err
		}
		fields := strings.Fields(string(raw))
		at, err := strconv.ParseUint(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
		if err != nil || !isStopped(string(stat)) {
			stopped = false
			continue
		}
		inside = inside || at >= s.from && at < s.to
	}
	return stopped, inside, nil
}

// isStopped reads the state in a line of proc_pid_stat(5), behind the name in
// brackets.
func isStopped(stat string) bool {
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	return len(fields) > 0 && strings.EqualFold(fields[0], "T")
}

// SetClock sets the wall clock of the node's process off by so many seconds, until it
// is set again or the process ends.
func (n *Node) SetClock(offset time.Duration) error {
	if err := setClock(n.child.PID(), offset); err != nil {
		return fmt.Errorf("set the clock of node %d: %w", n.ID, err)
	}
	n.clock = offset
	return nil
}

// clocks reports whether the clock of a process can be set.
func clocks() error {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), standstillMax)
	defer cancel()
	var err error
	waiting := await(ctx, "a process has a vDSO", func() (bool, string) { // it has none as it begins
		err = setClock(child.Process.Pid, time.Hour)
		return err == nil || !errors.Is(err, errNoVDSO), fmt.Sprint(err)
	})
	_ = child.Process.Kill() // it may not have got that far
	_ = child.Wait()         // killed
	return errors.Join(err, waiting)
}
