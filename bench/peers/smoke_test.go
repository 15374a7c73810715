package main

import (
	"context"
	"crypto/rand"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/bench/load"
	"logbroker/bench/procs"
)

// TestMain lets the systems start this binary as their broker processes, and a
// test start it as the driver of one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{"nats-server", "raft-node", "jetstream", "dragonboat"}, os.Args[1]) {
		main()
	}
	os.Exit(m.Run())
}

func smokeSpec(t *testing.T) load.Spec {
	t.Helper()
	if testing.Short() {
		t.Skip("starts three broker processes")
	}
	spec := load.Defaults()
	spec.Partitions, spec.Producers, spec.Dir = 3, 2, t.TempDir()
	return spec
}

// smoke starts the system, sends for a second at most, and checks that every
// record got its word, that the brokers worked for it and that all is read back.
func smoke(t *testing.T, sys load.System, spec load.Spec, read bool) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	stopped := false
	stop := func() {
		if !stopped {
			if err := sys.Stop(); err != nil {
				t.Error(err)
			}
		}
		stopped = true
	}
	defer stop()
	if err := sys.Start(ctx, spec); err != nil {
		t.Fatal(err)
	}
	before := cpuSeconds(t, sys)
	sent := smokeSend(ctx, t, sys, spec)
	if used := cpuSeconds(t, sys) - before; used <= 0 {
		t.Errorf("the brokers used %v CPU seconds for %d records", used, sent)
	}
	if read {
		smokeReceive(ctx, t, sys, spec, sent)
	}
	if len(sys.Settings()) < 5 || sys.(load.Durable).Durability() == "" {
		t.Errorf("settings %v", sys.Settings())
	}
	t.Logf("%d records; %v", sent, sys.Settings())
	pids := sys.Processes()
	stop()
	for _, pid := range pids {
		if _, err := procs.Usage(pid); err == nil {
			t.Errorf("broker %d still runs", pid)
		}
	}
}

func cpuSeconds(t *testing.T, sys load.System) float64 {
	sum := 0.0
	if len(sys.Processes()) != 3 {
		t.Fatalf("broker processes %v, want 3", sys.Processes())
	}
	for _, pid := range sys.Processes() {
		use, err := procs.Usage(pid)
		if err != nil {
			t.Fatal(err)
		}
		sum += use.CPUSeconds
	}
	return sum
}

func smokeSend(ctx context.Context, t *testing.T, sys load.System, spec load.Spec) int64 {
	value := make([]byte, spec.RecordSize)
	_, _ = rand.Read(value)
	var sent, acked atomic.Int64
	done := func(err error) {
		if err != nil {
			t.Error(err)
		}
		acked.Add(1)
	}
	for n := range spec.Producers {
		sender, err := sys.NewSender(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); time.Since(began) < 500*time.Millisecond; {
			sender.Send(ctx, load.Record{Value: value}, done)
			sent.Add(1)
		}
		if err := sender.Flush(ctx); err != nil {
			t.Error(err)
		}
		alone := make(chan error, 1)
		began := time.Now()
		sender.Send(ctx, load.Record{Value: value, Key: []byte("key")}, func(err error) { alone <- err })
		if err := <-alone; err != nil {
			t.Error(err)
		}
		t.Logf("one record alone: %v", time.Since(began))
		sent.Add(1)
		acked.Add(1)
		if err := sender.Close(); err != nil {
			t.Error(err)
		}
	}
	if sent.Load() != acked.Load() || sent.Load() < 100 {
		t.Errorf("%d records sent, %d had an answer", sent.Load(), acked.Load())
	}
	return sent.Load()
}

func smokeReceive(ctx context.Context, t *testing.T, sys load.System, spec load.Spec, sent int64) {
	receiver, err := sys.NewReceiver(ctx, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	reading, enough := context.WithCancel(ctx)
	defer enough()
	var got atomic.Int64
	err = receiver.Receive(reading, func(values [][]byte) {
		for _, value := range values {
			if len(value) != spec.RecordSize {
				t.Errorf("a value of %d bytes, want %d", len(value), spec.RecordSize)
			}
		}
		if got.Add(int64(len(values))) >= sent {
			enough()
		}
	})
	if err != nil || got.Load() != sent {
		t.Errorf("%d records read of %d: %v", got.Load(), sent, err)
	}
	if err := receiver.Close(); err != nil {
		t.Error(err)
	}
}

func TestJetStreamAsyncTakesAndGivesBack(t *testing.T) {
	spec := smokeSpec(t)
	spec.Options = map[string]string{"path": pathAsync}
	smoke(t, &jetStreamSystem{sync: syncDefault}, spec, true)
}

func TestJetStreamFastIngestTakesAndGivesBack(t *testing.T) {
	spec := smokeSpec(t)
	spec.Options = map[string]string{"path": pathFast}
	smoke(t, &jetStreamSystem{sync: syncAlways}, spec, true)
}

func TestJetStreamCalibrationChoosesAPath(t *testing.T) {
	spec := smokeSpec(t)
	spec.Partitions = 4
	sys := &jetStreamSystem{sync: syncDefault}
	smoke(t, sys, spec, false)
	if path := sys.Settings()["path"]; path != pathAsync && path != pathFast {
		t.Errorf("path %q was chosen", path)
	}
	if !strings.Contains(sys.Settings()["path chosen"], "fast on 3 streams") {
		t.Errorf("settings do not say why: %v", sys.Settings())
	}
}

func TestRawDragonboatTakesProposals(t *testing.T) {
	for _, hop := range []string{hopNone, hopTCP} {
		t.Run(hop, func(t *testing.T) {
			spec := smokeSpec(t)
			spec.Options = map[string]string{"hop": hop}
			smoke(t, &raftSystem{}, spec, false)
		})
	}
}

func TestKafkaThatDoesNotRunIsAnError(t *testing.T) {
	addresses, err := freeAddresses(1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	sys := &kafkaSystem{broker: addresses[0]}
	if err := sys.Start(ctx, load.Defaults()); err == nil || !strings.Contains(err.Error(), addresses[0]) {
		t.Errorf("Start = %v", err)
	}
}
