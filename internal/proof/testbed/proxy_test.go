package testbed

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// exchange sends a line over a connection and waits within for it to come back.
func exchange(c net.Conn, line string, within time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, line); err != nil {
		return err
	}
	back := make([]byte, len(line))
	if _, err := io.ReadFull(c, back); err != nil {
		return err
	}
	if string(back) != line {
		return fmt.Errorf("%q came back as %q", line, back)
	}
	return nil
}

func TestAProxyHoldsBackOneWayAndThenLetsItPass(t *testing.T) {
	t.Parallel()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	heard := make(chan byte, 100)
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				for buffer := make([]byte, 1); ; {
					if _, err := c.Read(buffer); err != nil {
						return
					}
					heard <- buffer[0]
					_, _ = c.Write(buffer)
				}
			}()
		}
	}()
	var owner atomic.Int64
	x := newProxy(func(c net.Conn) int {
		owner.Store(int64(1 + ownerOf(c, []int{1 << 30, os.Getpid()})))
		return int(owner.Load())
	})
	if err := x.front(1, "127.0.0.1:0", echo.Addr().String()); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", x.listeners[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	const long = 30 * time.Second
	if err := exchange(c, "a", long); err != nil || owner.Load() != 2 || <-heard != 'a' {
		t.Fatalf("%v, owner %d", err, owner.Load())
	}
	x.cut(3, 1) // another one's way
	x.cut(1, 2) // the way back
	if err := exchange(c, "b", 50*time.Millisecond); err == nil {
		t.Error("an answer passes a cut")
	}
	if got := <-heard; got != 'b' {
		t.Errorf("the other way is cut too: %q", got)
	}
	x.cut(2, 1)
	if err := exchange(c, "c", 50*time.Millisecond); err == nil || len(heard) > 0 {
		t.Error("a request passes a cut")
	}
	x.heal()
	if err := c.SetDeadline(time.Now().Add(long)); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, 2)
	if _, err := io.ReadFull(c, back); err != nil || string(back) != "bc" {
		t.Errorf("after the cut %q came: %v", back, err)
	}
	x.cut(1, 2)
	if err := x.close(); err != nil {
		t.Error(err)
	}
	if err := exchange(c, "d", long); err == nil {
		t.Error("a connection outlives its proxy")
	}
}

func TestAProxyOfANodeThatDoesNotRunEndsConnections(t *testing.T) {
	t.Parallel()
	x := newProxy(func(net.Conn) int { return 0 })
	if err := x.front(1, "127.0.0.1:0", "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	dialer := net.Dialer{Timeout: 30 * time.Second}
	c, err := dialer.DialContext(context.Background(), "tcp", x.listeners[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a node that does not run answers")
	}
	if err := x.close(); err != nil {
		t.Error(err)
	}
}
