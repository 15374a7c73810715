package e2e

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"logbroker/consumer"
	"logbroker/producer"
)

// From some moment on every fsync of a node's process fails with EIO. The process
// ends at the first one, and acks nothing of what was sent after that moment;
// what was acked before is there after a restart.
func TestAFailedFsyncEndsTheProcessAndAcksNothing(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("SKIPPED: strace is not installed, so no fsync can be made to fail")
	}
	n := newNode(t, t.TempDir(), 1)
	n.configure(t, settings{})
	n.start(t)
	n.awaitReady(t)
	createTopic(t, dial(t, n.url()), "synced", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	p, err := producer.New(ctx, []string{n.url()}, producer.WithDeliveryTimeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(context.Background()) // it may have records that nobody took
	for i := range 20 {
		if _, err := p.Send(ctx, producer.Record{Topic: "synced", Value: []byte(strconv.Itoa(i))}); err != nil {
			t.Fatal(err)
		}
	}
	tracer := launchProcess(t, "strace", nil, strace, "-f", "-p", strconv.Itoa(n.pid()),
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO")
	await(t, patience, "strace is attached", func() (bool, string) {
		select {
		case <-tracer.done:
			if n := tracer.stderr.String(); strings.Contains(n, "ptrace") {
				t.Skipf("SKIPPED: no process may be traced here: %s", tail(n, 1))
			}
		default:
		}
		said := tracer.stderr.String()
		return strings.Contains(said, "attached"), said
	})
	if r, err := p.Send(ctx, producer.Record{Topic: "synced", Value: []byte("after the error")}); err == nil {
		t.Errorf("a record whose fsync failed was acked at offset %d", r.Offset)
	}
	if code := n.ended(t, patience); code == 0 {
		t.Error("the process ended with 0")
	}
	if said := n.stderr.String(); !strings.Contains(said, "input/output error") {
		t.Errorf("the process does not say why it ended:\n%s", tail(said, 5))
	}
	n.start(t)
	n.awaitReady(t)
	r, err := consumer.NewReader(ctx, []string{n.url()}, "synced", 0, consumer.FromEarliest())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range 20 {
		record, err := r.Next(ctx)
		if err != nil || string(record.Value) != strconv.Itoa(i) {
			t.Fatalf("record %d: %q, %v", i, record.Value, err)
		}
	}
}
