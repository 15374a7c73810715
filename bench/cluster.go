package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"logbroker/bench/load"
	"logbroker/bench/procs"
)

// cluster is a cluster that bench has started: `logbrokerd dev`, with a process
// per broker or all in one.
type cluster struct {
	dev      *procs.Child
	nodes    int
	servers  []string
	pids     []int // of the brokers
	settings map[string]string
}

const (
	// startTimeout bounds the founding of a cluster, on a busy machine too.
	startTimeout = 90 * time.Second
	// stopGrace is how long the brokers may take to end before they are killed.
	stopGrace = 40 * time.Second
	// readyPollInterval is how often the ready file is looked for.
	readyPollInterval = 20 * time.Millisecond
)

// startCluster starts the brokers that the options of spec ask for, with fresh
// data in spec.Dir, and returns when the cluster is ready.
func startCluster(ctx context.Context, spec load.Spec) (*cluster, error) {
	o := spec.Options
	nodes := embeddedDefault
	if text := o[optionNodes]; text != "" {
		var err error
		if nodes, err = strconv.Atoi(text); err != nil || nodes < 1 {
			return nil, fmt.Errorf("option %s=%q: use a number of brokers", optionNodes, text)
		}
	}
	if spec.Dir == "" {
		return nil, errors.New("the spec names no dir for the brokers' data")
	}
	binary, err := brokerBinary(ctx, o[optionBroker])
	if err != nil {
		return nil, err
	}
	ready := filepath.Join(spec.Dir, "ready.json")
	args := []string{"dev", "--any-port", "--nodes", strconv.Itoa(nodes), "--data-dir", filepath.Join(spec.Dir, "data"), "--ready-file", ready}
	mode := "all in one process"
	if o[optionInProcess] != "true" {
		mode = "a process each"
		args = append(args, "--processes")
	}
	settings := map[string]string{"brokers": fmt.Sprintf("%d, %s, on loopback", nodes, mode)}
	for key, value := range o {
		if key, isSet := strings.CutPrefix(key, optionSet); isSet {
			args = append(args, "--"+key+"="+value)
			settings[key] = value
		}
	}
	dev, err := procs.Start(procs.Command{Path: binary, Args: args, Env: cleanEnvironment()})
	if err != nil {
		return nil, err
	}
	c := &cluster{dev: dev, nodes: nodes, settings: settings}
	if err := c.awaitReady(ctx, ready); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// brokerBinary is the binary that was named, or else one built just now.
func brokerBinary(ctx context.Context, named string) (string, error) {
	if named != "" {
		return filepath.Abs(named)
	}
	checkout, err := procs.Checkout()
	if err != nil {
		return "", fmt.Errorf("%w, so there is nothing to build the broker from: name a binary with --broker", err)
	}
	return procs.Build(ctx, checkout, ".", "cmd/logbrokerd")
}

// cleanEnvironment is this process's environment without logbroker's own
// variables: what is measured is the defaults and what the options say.
func cleanEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "LOGBROKER_") })
}

func (c *cluster) awaitReady(ctx context.Context, file string) error {
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	ticker := time.NewTicker(readyPollInterval)
	defer ticker.Stop()
	for !c.readReady(file) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.dev.Done():
			return fmt.Errorf("the brokers did not start: %s", strings.TrimPrefix(c.dev.LastLine(), "error: "))
		case <-timer.C:
			return fmt.Errorf("the brokers were not ready within %s", startTimeout)
		case <-ticker.C:
		}
	}
	return nil
}

// readReady reports whether the ready file is there, and takes from it what is
// needed.
func (c *cluster) readReady(file string) bool {
	var ready struct {
		Servers []string `json:"servers"`
		Nodes   []struct {
			PID int `json:"pid"`
		} `json:"nodes"`
	}
	raw, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(raw, &ready) != nil {
		return false // it is written at once, so what is not there yet comes
	}
	c.servers = ready.Servers
	for _, n := range ready.Nodes {
		if !slices.Contains(c.pids, n.PID) {
			c.pids = append(c.pids, n.PID)
		}
	}
	return true
}

func (c *cluster) stop() error { return c.dev.Stop(stopGrace) }
