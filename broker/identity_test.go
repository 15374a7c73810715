package broker

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"logbroker/internal/storage"
)

// dirs makes a data directory with its Raft directory inside.
func dirs(t *testing.T) (data, raft string) {
	t.Helper()
	data = t.TempDir()
	raft = filepath.Join(data, "raft")
	if err := os.MkdirAll(raft, 0o755); err != nil {
		t.Fatal(err)
	}
	return data, raft
}

func founded(t *testing.T) (data, raft string) {
	t.Helper()
	data, raft = dirs(t)
	s, err := openIdentity(directories{fs: storage.OS(), data: data, raft: raft}, "test", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.update(func(id *identity) { id.ClusterID, id.MetadataStarted = "cluster-1", true }); err != nil {
		t.Fatal(err)
	}
	return data, raft
}

func TestIdentityIsKeptOverRestarts(t *testing.T) {
	data, raft := founded(t)
	first, err := openIdentity(directories{fs: storage.OS(), data: data, raft: raft}, "test", 1)
	if err != nil {
		t.Fatal(err)
	}
	second, err := openIdentity(directories{fs: storage.OS(), data: data, raft: raft}, "test", 1)
	if err != nil || second.id.Incarnation != first.id.Incarnation || second.id.ClusterID != "cluster-1" {
		t.Fatalf("%+v then %+v, %v", first.id, second.id, err)
	}
}

// Every single-file state that a crash between two writes can leave is healed.
func TestACrashBetweenTheTwoCopiesHeals(t *testing.T) {
	data, raft := dirs(t)
	if _, err := openIdentity(directories{fs: storage.OS(), data: data, raft: raft}, "test", 1); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(raft, identityFile)); err != nil {
		t.Fatal(err)
	}
	s, err := openIdentity(directories{fs: storage.OS(), data: data, raft: raft}, "test", 1)
	if err != nil {
		t.Fatalf("crash before the second copy of a new identity: %v", err)
	}
	before, err := os.ReadFile(filepath.Join(data, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.update(func(id *identity) { id.ClusterID = "cluster-1" }); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, identityFile), before, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = openIdentity(directories{fs: storage.OS(), data: data, raft: raft}, "test", 1); err != nil || s.id.ClusterID != "cluster-1" {
		t.Fatalf("crash between the copies of an update: %+v, %v", s, err)
	}
}

func TestWrongDirectoriesAreRefusedInOneLine(t *testing.T) {
	edit := func(t *testing.T, dir string, change func(map[string]any)) {
		path := filepath.Join(dir, identityFile)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]any
		if err := json.Unmarshal(raw, &fields); err != nil {
			t.Fatal(err)
		}
		change(fields)
		if raw, err = json.Marshal(fields); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		harm func(t *testing.T, data, raft string) (cluster string, node uint64)
		want string
	}{
		{"lost Raft directory", func(t *testing.T, _, raft string) (string, uint64) {
			if err := os.RemoveAll(raft); err != nil {
				t.Fatal(err)
			}
			return "test", 1
		}, "must not vote again"},
		{"lost data directory", func(t *testing.T, data, _ string) (string, uint64) {
			if err := os.Remove(filepath.Join(data, identityFile)); err != nil {
				t.Fatal(err)
			}
			return "test", 1
		}, "is empty, but"},
		{"Raft directory of another node", func(t *testing.T, _, raft string) (string, uint64) {
			edit(t, raft, func(f map[string]any) { f["incarnation"] = "somebody-else" })
			return "test", 1
		}, "are mixed up"},
		{"newer format", func(t *testing.T, data, _ string) (string, uint64) {
			edit(t, data, func(f map[string]any) { f["format"] = 99 })
			return "test", 1
		}, "format 99"},
		{"another node id", func(*testing.T, string, string) (string, uint64) { return "test", 2 }, "belongs to node 1"},
		{"another cluster", func(*testing.T, string, string) (string, uint64) { return "prod", 1 }, `belongs to cluster "test"`},
		{"damaged file", func(t *testing.T, data, _ string) (string, uint64) {
			if err := os.WriteFile(filepath.Join(data, identityFile), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			return "test", 1
		}, "is damaged"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			data, raft := founded(t)
			cluster, node := test.harm(t, data, raft)
			if err := os.MkdirAll(raft, 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := openIdentity(directories{fs: storage.OS(), data: data, raft: raft}, cluster, node)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("error %v, want one line with %q", err, test.want)
			}
		})
	}
}

func TestADirectoryOfSomethingElseIsRefused(t *testing.T) {
	data, raft := dirs(t)
	if err := os.WriteFile(filepath.Join(data, "wedding.jpg"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openIdentity(directories{fs: storage.OS(), data: data, raft: raft}, "test", 1); err == nil || !strings.Contains(err.Error(), "wedding.jpg") {
		t.Fatalf("took somebody's directory: %v", err)
	}
}
