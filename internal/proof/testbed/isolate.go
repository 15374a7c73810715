package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideEnv tells this program that it runs in namespaces of its own.
const insideEnv = "LOGBROKER_PROOF_INSIDE"

// Powers is what this process may do to nodes beside signals.
type Powers struct {
	Cuts  bool // what nodes send each other can be dropped, by network namespaces
	Proxy bool // or held back, by a proxy
	Disks bool // loop mounts: a full disk and a lost power supply
	Trace bool // strace: slow and failing fsync
	Clock bool // a process's wall clock can be set
	// Missing says for each power that is not there why, for people.
	Missing []string
}

// Isolate runs this program once more in namespaces of its own (network, mounts,
// processes), so that nothing it does to them outlives it, and returns its exit
// code. done is false where this process is that second one already, or where
// the system does not allow it; then the caller goes on itself.
func Isolate() (code int, done bool) {
	if inside() {
		return 0, false
	}
	runtime.LockOSThread() // Pdeathsig is bound to the thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = idMapping(os.Getuid())
		cmd.SysProcAttr.GidMappings = idMapping(os.Getgid())
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, true
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1), true
	}
	fmt.Fprintf(os.Stderr, "no namespaces of its own for this run (%v): nodes share the network and the disk\n", err)
	return 0, false
}

// inside reports whether this process is the one that Isolate started. The
// variable alone proves nothing, and to take the system's own mounts for ours would
// be bad: the first process of a namespace has the id 1.
func inside() bool { return os.Getenv(insideEnv) != "" && os.Getpid() == 1 }

// Discover finds out what this process may do, and prepares the namespaces that
// Isolate made.
func Discover() Powers {
	var p Powers
	var err error
	if !inside() {
		err = errors.New("not in namespaces of its own")
	} else {
		err = prepareNamespaces()
	}
	p.have(&p.Cuts, "cuts by network namespaces, a proxy cuts instead", errors.Join(err, run("ip", "-V"), run("nsenter", "-V")))
	p.Proxy = !p.Cuts
	p.Cuts = true
	if err == nil {
		err = loopDevices()
	}
	p.have(&p.Disks, "power loss and full disks", err)
	p.have(&p.Trace, "slow and failing disks", run("strace", "-o", "/dev/null", "true"))
	p.have(&p.Clock, "jumps of the clock", clocks())
	return p
}

func (p *Powers) have(what *bool, name string, err error) {
	if *what = err == nil; err != nil {
		p.Missing = append(p.Missing, fmt.Sprintf("skipped: %s (%v)", name, err))
	}
}

// prepareNamespaces makes the mounts private, lets /proc show the processes of
// this namespace, and gives `ip netns` a directory of its own.
func prepareNamespaces() error {
	if err := loopbackUp(); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := os.Mkdir("/run/netns", 0o755); err != nil {
		return err
	}
	return nil
}

// loopbackUp brings up the loopback device, which is down in a new namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring up the loopback device: %w", err)
	}
	return nil
}

// loopDevices reports whether ext4 can be mounted from a file.
func loopDevices() error {
	if os.Getuid() != 0 {
		return errors.New("not root")
	}
	dir, err := os.MkdirTemp("", "logbroker-loop-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // an empty directory at worst
	d, err := newDisk(dir, 0, 16<<20)
	if err != nil {
		return err
	}
	return errors.Join(d.powerLoss(), d.close())
}

func idMapping(id int) []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
}

// run runs a command of the system; its error has what the command said.
func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
