package testbed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits bound what a node's process may have. 0 is no bound.
type Limits struct {
	// MemoryBytes is what it may hold together with what the kernel caches for it:
	// beyond it the kernel takes the caches, and then kills.
	MemoryBytes int64
	// DiskBytes is what its disk writes in a second.
	DiskBytes int64
}

// group are the control groups that bound one node's process; see cgroups(7).
// Version 1 has a group for each resource, version 2 one for all.
type group struct {
	dirs    []string
	unified string // the group of version 2, "" for none
	// diskFile takes lines that begin with device, major:minor of the node's disk.
	diskFile, device string
}

func (g *group) limitMemory(bytes int64) error {
	dir, err := g.place("memory", "memory")
	if err != nil {
		return err
	}
	file := "memory.limit_in_bytes"
	if dir == g.unified {
		file = "memory.max"
	}
	return writeControl(filepath.Join(dir, file), strconv.FormatInt(bytes, 10))
}

// limitDisk bounds the writes that the process itself causes. In version 1 those
// are the ones that it waits for, as it does in fsync: they are what an ack
// waits for.
func (g *group) limitDisk(bytesPerSecond int64, dataDir string) error {
	device, err := wholeDevice(dataDir)
	if err != nil {
		return err
	}
	dir, err := g.place("blkio", "io")
	if err != nil {
		return err
	}
	g.device, g.diskFile = device, filepath.Join(dir, "blkio.throttle.write_bps_device")
	if dir == g.unified {
		g.diskFile = filepath.Join(dir, "io.max")
	}
	return g.setDisk(bytesPerSecond)
}

// SetDisk changes what the node's disk writes in a second, where that was bounded;
// 0 ends the bound.
func (n *Node) SetDisk(bytesPerSecond int64) error { return n.group.setDisk(bytesPerSecond) }

func (g *group) setDisk(bytesPerSecond int64) error {
	if g.diskFile == "" {
		return nil
	}
	value := strconv.FormatInt(bytesPerSecond, 10)
	if g.unified != "" && bytesPerSecond == 0 {
		value = "max"
	}
	if g.unified != "" {
		value = "wbps=" + value
	}
	return writeControl(g.diskFile, g.device+" "+value)
}

// place returns a group that bounds a resource, by its names in version 1 and 2.
// Error: there is none, and none can be made.
func (g *group) place(v1, v2 string) (string, error) {
	parent, unified, err := findControl(v1, v2)
	if err != nil {
		return "", err
	}
	if unified && g.unified != "" {
		return g.unified, nil
	}
	dir, err := os.MkdirTemp(parent, "logbroker-proof-")
	if err != nil {
		return "", err
	}
	g.dirs = append(g.dirs, dir)
	if unified {
		g.unified = dir
	}
	return dir, nil
}

// findControl finds where groups that bound a resource can be made. For the lines
// of /proc/self/mountinfo see proc(5).
func findControl(v1, v2 string) (dir string, unified bool, err error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, err
	}
	for line := range strings.Lines(string(raw)) {
		before, after, _ := strings.Cut(line, " - ")
		at, what := strings.Fields(before), strings.Fields(after)
		if len(at) < 5 || len(what) < 3 {
			continue
		}
		mount := at[4]
		switch {
		case what[0] == "cgroup" && slices.Contains(strings.Split(what[2], ","), v1):
			return mount, false, nil
		case what[0] == "cgroup2" && passedOn(mount, v2):
			return mount, true, nil
		}
	}
	return "", false, fmt.Errorf("there are no control groups of %s (version 1) or %s (version 2)", v1, v2)
}

// passedOn reports whether the groups below a mount of version 2 have a resource.
func passedOn(mount, resource string) bool {
	raw, err := os.ReadFile(filepath.Join(mount, "cgroup.subtree_control"))
	return err == nil && slices.Contains(strings.Fields(string(raw)), resource)
}

// wholeDevice returns major:minor of the disk below a directory: of the disk, where
// it lies on a partition.
func wholeDevice(dir string) (string, error) {
	var s unix.Stat_t
	if err := unix.Stat(dir, &s); err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	at, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(s.Dev), unix.Minor(s.Dev)))
	if err != nil {
		return "", fmt.Errorf("%s does not lie on a disk: %w", dir, err)
	}
	if _, err := os.Stat(filepath.Join(at, "partition")); err == nil {
		at = filepath.Dir(at)
	}
	device, err := os.ReadFile(filepath.Join(at, "dev"))
	return strings.TrimSpace(string(device)), err
}

// writeControl writes a whole value at once, as control files want it.
func writeControl(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// enter is the command prefix that runs a program within the groups.
func (g *group) enter() []string {
	if len(g.dirs) == 0 {
		return nil
	}
	script := ""
	for _, dir := range g.dirs {
		script += "echo 0 > '" + filepath.Join(dir, "cgroup.procs") + "' && "
	}
	return []string{"sh", "-c", script + `exec "$@"`, "sh"}
}

// close removes the groups, whose processes must have ended.
func (g *group) close() error {
	var errs []error
	for _, dir := range g.dirs {
		errs = append(errs, os.Remove(dir))
	}
	return errors.Join(errs...)
}

// RSSPeak is the most memory that the node's process ever held, in bytes: what
// the kernel caches for it is not in it.
func (n *Node) RSSPeak() (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.child.PID()))
	if err != nil {
		return 0, fmt.Errorf("node %d: %w", n.ID, err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok { // in kB
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("node %d: the kernel does not say how much memory it held", n.ID)
}

// slowSyncs is a command prefix under which every sync of a process takes 20 ms
// longer.
func slowSyncs() []string {
	return []string{"strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:delay_enter=20000"}
}
