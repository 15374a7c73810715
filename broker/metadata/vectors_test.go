package metadata

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vectorCommands is one command of each kind, and one of them again.
func vectorCommands() [][]byte {
	age := 90 * time.Minute
	n := testNode(2)
	n.Rack, n.Version, n.HTTPAddr, n.RouteAddr = "r2", "0.1.0", "10.0.0.2:9644", "10.0.0.2:6222"
	return [][]byte{
		encode(command{Kind: kindFound, TimeMs: 1}, Founding{ClusterID: "c1", ClusterName: "test", Defaults: testDefaults()}),
		encode(command{Kind: kindRegister, TimeMs: 2}, testNode(1)),
		encode(command{Kind: kindRegister, TimeMs: 3}, n),
		encode(command{Kind: kindCreateTopic, TimeMs: 4, RequestID: "q1"}, create("a", 2, 2)),
		encode(command{Kind: kindCreateTopic, TimeMs: 5, RequestID: "q2"}, createTopic{Name: "b", Partitions: 1, Replicas: 1, Config: testConfig(), Nodes: []uint64{2}}),
		encode(command{Kind: kindCreateTopic, TimeMs: 6, RequestID: "q1"}, create("a", 2, 2)),
		encode(command{Kind: kindAddPartitions, TimeMs: 7, RequestID: "q3"}, addPartitions{topicRef: topicRef{"a", 1}, Partitions: 3}),
		encode(command{Kind: kindAlterTopic, TimeMs: 8, RequestID: "q4"}, alterTopic{topicRef{"a", 1}, configPatch{RetentionAge: &age}}),
		encode(command{Kind: kindMarkStarted, TimeMs: 9}, markStarted{1, []ReplicaKey{{1001, 1}, {1001, 2}}}),
		encode(command{Kind: kindDeleteTopic, TimeMs: 10, RequestID: "q5"}, deleteTopic{topicRef{"b", 2}}),
		encode(command{Kind: kindProducerIDs, TimeMs: 11}, producerIDs{1000}),
	}
}

// golden compares got with a file under testdata/vectors. The files are what
// released nodes have in their logs: after a release they never change, new
// versions get new files. UPDATE_VECTORS=1 writes them.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "vectors", name)
	if os.Getenv("UPDATE_VECTORS") == "1" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs:\n%s\nwant\n%s", name, got, want)
	}
}

// replayed is what the commands in the file name make of an empty cluster.
func replayed(t *testing.T, name string) *rig {
	t.Helper()
	file, err := os.ReadFile(filepath.Join("testdata", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	for line := range strings.Lines(string(file)) {
		if got := r.bytes([]byte(line)); got.Code != 0 {
			t.Errorf("%s: %+v", line, got)
		}
	}
	return r
}

func TestCommandsKeepTheirBytes(t *testing.T) {
	golden(t, "commands-v1.jsonl", append(bytes.Join(vectorCommands(), []byte("\n")), '\n'))
}

func TestOldCommandsMeanWhatTheyMeant(t *testing.T) {
	r := replayed(t, "commands-v1.jsonl")
	golden(t, "snapshot-v1.json", r.snapshot())
}

func TestOldSnapshotsAreRead(t *testing.T) {
	file, err := os.ReadFile(filepath.Join("testdata", "vectors", "snapshot-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	if err := r.m.RecoverFromSnapshot(bytes.NewReader(file), nil, nil); err != nil {
		t.Fatal(err)
	}
	golden(t, "snapshot-v1.json", r.snapshot())
}

func FuzzUpdate(f *testing.F) {
	for _, c := range append(vectorCommands(), replaceCommands()...) {
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, cmd []byte) {
		r := foundedRig(t, 2)
		r.bytes(cmd)
		r.bytes(cmd)
		if err := newRig(t).m.RecoverFromSnapshot(bytes.NewReader(r.snapshot()), nil, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzRecoverFromSnapshot(f *testing.F) {
	r := newRig(&testing.T{})
	for _, c := range append(vectorCommands(), replaceCommands()...) {
		r.bytes(c)
	}
	f.Add(r.snapshot())
	f.Add([]byte(`{"version":1,"topics":[null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newRig(t)
		if err := r.m.RecoverFromSnapshot(bytes.NewReader(data), nil, nil); err != nil {
			return
		}
		for _, topic := range r.image.Topics() {
			for i := range topic.Partitions {
				if _, p, ok := r.image.PartitionByShard(topic.Partitions[i].Shard); !ok || p.Shard != topic.Partitions[i].Shard {
					t.Fatalf("shard %d is not found", topic.Partitions[i].Shard)
				}
			}
		}
	})
}

func FuzzParseTopicConfig(f *testing.F) {
	f.Add("retention_bytes", "1GiB")
	f.Add("segment_age", "1h")
	f.Fuzz(func(t *testing.T, name, value string) {
		c, err := ParseTopicConfig(testConfig(), map[string]string{name: value})
		if err != nil {
			return
		}
		if again, err := ParseTopicConfig(TopicConfig{}, c.Map()); err != nil || again != c {
			t.Fatalf("%s=%q became %v, which reads back as %+v, %v", name, value, c.Map(), again, err)
		}
	})
}
