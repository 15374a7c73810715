package broker

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"logbroker/config"
)

// oneNode is the configuration of a cluster of one on free ports.
func oneNode(dir string) config.Config {
	c := config.Default()
	c.Storage.DataDir, c.Storage.MinFreeBytes = dir, 0
	c.Raft.RTT = 10 * time.Millisecond
	for _, addr := range []*string{&c.Client.Listen, &c.NATSCluster.Listen, &c.Raft.Listen, &c.HTTP.Listen} {
		*addr = "127.0.0.1:0"
	}
	return c
}

// runOnce starts a node and stops it again. It returns the start's error.
func runOnce(t *testing.T, dir string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	b, err := New(Options{Config: oneNode(dir), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	startErr := b.Start(ctx)
	if err := b.Stop(ctx); err != nil {
		t.Error(err)
	}
	return startErr
}

func storedIdentity(t *testing.T, dir string) identity {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	var id identity
	if err := json.Unmarshal(raw, &id); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAMetadataLogThatWasCutShortIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := runOnce(t, dir); err != nil {
		t.Fatal(err)
	}
	id := storedIdentity(t, dir)
	if id.MetadataApplied == 0 {
		t.Fatal("the applied index was not recorded")
	}
	if err := runOnce(t, dir); err != nil {
		t.Fatalf("a restart on a whole log: %v", err)
	}
	// To the node a log that lost its end looks like a watermark above the end.
	// One copy suffices: an old Raft directory brings its old copy along.
	id = storedIdentity(t, dir)
	id.MetadataApplied += 1000
	raw, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, identityFile), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := runOnce(t, dir); err == nil || !strings.Contains(err.Error(), "was cut short") || strings.Contains(err.Error(), "\n") {
		t.Fatalf("error %v, want one line that says the log was cut short", err)
	}
}
