package testbed

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

const clockEnv = "TESTBED_TELL_THE_TIME"

func TestMain(m *testing.M) {
	if os.Getenv(clockEnv) != "" {
		tellTheTime()
		return
	}
	os.Exit(m.Run())
}

// tellTheTime is the child of the next test: for each line it reads it tells the
// time, and how long it has lived by the monotonic clock.
func tellTheTime() {
	began, in := time.Now(), bufio.NewScanner(os.Stdin)
	stop := make(chan struct{})
	defer close(stop)
	for range 2 { // threads that ask often
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if n%100 == 0 {
					_ = time.Now()
				}
			}
		}()
	}
	for in.Scan() {
		fmt.Println("time", time.Now().Unix(), time.Since(began).Nanoseconds())
	}
}

func TestAProcessesWallClockJumpsAlone(t *testing.T) {
	t.Parallel()
	if err := clocks(); err != nil {
		t.Skip(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), clockEnv+"=1")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	began := time.Now()
	check := func(offset time.Duration) {
		t.Helper()
		before := time.Now()
		fmt.Fprintln(in)
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "time ") {
		}
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			t.Fatalf("the child says %q: %v", lines.Text(), lines.Err())
		}
		wall, _ := strconv.ParseInt(fields[1], 10, 64)
		lived, _ := strconv.ParseInt(fields[2], 10, 64)
		after := time.Now()
		if wall < before.Add(offset).Unix() || wall > after.Add(offset).Unix() {
			t.Errorf("with a clock off by %v it is %d for the child and %d here", offset, wall, before.Unix())
		}
		if lived <= 0 || time.Duration(lived) > after.Sub(began) {
			t.Errorf("with a clock off by %v the child lives for %v", offset, time.Duration(lived))
		}
	}
	check(0)
	for _, offset := range []time.Duration{24 * time.Hour, -24 * time.Hour, 0} {
		if err := setClock(child.Process.Pid, offset); err != nil {
			t.Fatal(err)
		}
		check(offset)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}
