package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), FileName)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, text string) (Loaded, error) {
	t.Helper()
	return Load(LoadOptions{File: writeFile(t, text)})
}

func TestDefaultsAreValidAndLoadUnchanged(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatal(err)
	}
	got, err := Load(LoadOptions{SearchDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	requireSame(t, Default(), got.Config)
}

func requireSame(t *testing.T, want, got Config) {
	t.Helper()
	var a, b bytes.Buffer
	if err := Print(&a, want); err != nil {
		t.Fatal(err)
	}
	if err := Print(&b, got); err != nil {
		t.Fatal(err)
	}
	if a.String() != b.String() {
		t.Fatalf("configurations differ:\n%s\n---\n%s", a.String(), b.String())
	}
}

// Trap: Unmarshal does not see a key that is only in the environment.
func TestEveryKeyCanComeFromTheEnvironmentAlone(t *testing.T) {
	t.Setenv("LOGBROKER_STORAGE_SEGMENT_BYTES", "64MiB")
	t.Setenv("LOGBROKER_RAFT_RTT", "20ms")
	t.Setenv("LOGBROKER_CLUSTER_NODE_ID", "7")
	t.Setenv("LOGBROKER_CLUSTER_FOUNDERS", "127.0.0.1:1, 127.0.0.1:2,127.0.0.1:3")
	t.Setenv("LOGBROKER_INSECURE", "true")
	got, err := Load(LoadOptions{SearchDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	c := got.Config
	if c.Storage.SegmentBytes != 64*MiB || c.Raft.RTT != 20*time.Millisecond || c.Cluster.NodeID != 7 || len(c.Cluster.Founders) != 3 || !c.Insecure {
		t.Fatalf("environment not applied: %+v", c)
	}
	for _, key := range Keys() {
		if !strings.HasPrefix(envName(key), "LOGBROKER_") {
			t.Errorf("key %s has no environment name", key)
		}
	}
}

func TestPrecedenceIsFlagsEnvironmentFileDefaults(t *testing.T) {
	file := writeFile(t, "cluster: {name: from-file, rack: file-rack}\nhttp: {listen: '127.0.0.1:1000'}\n")
	t.Setenv("LOGBROKER_CLUSTER_NAME", "from-env")
	t.Setenv("LOGBROKER_HTTP_LISTEN", "127.0.0.1:2000")
	got, err := Load(LoadOptions{File: file, Flags: map[string]string{"http.listen": "127.0.0.1:3000"}})
	if err != nil {
		t.Fatal(err)
	}
	c := got.Config
	if c.HTTP.Listen != "127.0.0.1:3000" || c.Cluster.Name != "from-env" || c.Cluster.Rack != "file-rack" || c.Cluster.NodeID != 1 {
		t.Fatalf("wrong precedence: %+v", c)
	}
}

func TestBadValuesAreNamedWithTheirRemedy(t *testing.T) {
	tests := []struct{ name, file, want string }{
		{"bare number for a duration", "shutdown: {drain_timeout: 30}", "30 has no unit"},
		{"text without unit for a duration", "shutdown: {drain_timeout: '30'}", "write it with a unit"},
		{"fraction for a size", "storage: {segment_bytes: 1.5}", "is not a size"},
		{"nonsense size", "storage: {segment_bytes: lots}", "write it like 64KiB"},
		{"unknown key", "storage: {segment_byte: 1MiB}", "unknown key storage.segment_byte (did you mean storage.segment_bytes?)"},
		{"unknown section", "storge: {data_dir: x}", "unknown key storge.data_dir (did you mean storage.data_dir?)"},
		{"empty unknown section", "bogus: {}", "bogus"},
		{"no yaml", "storage: [", "cannot read"},
		{"node id zero", "cluster: {node_id: 0}", "cluster.node_id: is 0"},
		{"negative node id", "cluster: {node_id: -3}", "node_id"},
		{"founder twice", "cluster: {founders: ['127.0.0.1:1','127.0.0.1:1']}", "names 127.0.0.1:1 twice"},
		{"founders and seeds", "cluster: {founders: ['127.0.0.1:1'], seeds: ['127.0.0.1:2']}", "cluster.seeds"},
		{"outside without TLS", "client: {listen: '10.0.0.1:4222'}", "insecure: true"},
		{"wildcard without advertise", "insecure: true\nraft: {listen: '0.0.0.0:63001'}", "cluster.advertise_host"},
		{"no port", "http: {listen: localhost}", "is not host:port"},
		{"same port twice", "http: {listen: '127.0.0.1:4222'}", "same address as client.listen"},
		{"batch too large", "client: {max_batch_bytes: 2MiB}", "client.max_batch_bytes"},
		{"kafka not built", "kafka: {enabled: true}", "not built yet"},
		{"session too short", "groups: {session_timeout: 10ms}", "groups.session_timeout"},
		{"heartbeat too slow", "groups: {session_timeout: 3s, heartbeat_interval: 2s}", "groups.heartbeat_interval"},
		{"no coordinators", "groups: {coordinator_shards: 0}", "groups.coordinator_shards"},
		{"compaction not built", "topic_defaults: {cleanup: compact}", "compact is not built yet"},
		{"credentials not built", "client: {user: u}", "unknown key client.user"},
		{"election too short", "raft: {election_rtt: 2}", "raft.election_rtt"},
		{"log level", "log: {level: loud}", "log.level"},
		{"half a certificate", "tls: {cert_file: a.pem}", "needs both"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := load(t, test.file)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	_, err := load(t, "cluster: {name: ''}\nlog: {level: loud, format: xml}\n")
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"log.level", "log.format"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s missing in: %v", want, err)
		}
	}
}

// Trap: Kubernetes injects variables of the service's name; a misspelt one of
// ours must still be noticed.
func TestUnknownEnvironmentIsAWarningWithASuggestion(t *testing.T) {
	t.Setenv("LOGBROKER_SERVICE_HOST", "10.0.0.1")
	t.Setenv("LOGBROKER_STORAGE_DATADIR", "/x")
	t.Setenv("LOGBROKER_SERVER", "nats://127.0.0.1:4222") // the client's
	got, err := Load(LoadOptions{SearchDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(got.Warnings, "\n")
	if len(got.Warnings) != 2 || !strings.Contains(all, "LOGBROKER_STORAGE_DATADIR is no setting (did you mean LOGBROKER_STORAGE_DATA_DIR?)") {
		t.Fatalf("warnings: %s", all)
	}
}

func TestNoKeyMeetsKubernetesServiceVariables(t *testing.T) {
	for _, key := range Keys() {
		if strings.HasPrefix(key, "service") || strings.HasPrefix(key, "port") {
			t.Errorf("key %s would be set by Kubernetes", key)
		}
	}
}

func TestPrintedDefaultsLoadBackToThemselves(t *testing.T) {
	var out bytes.Buffer
	if err := Print(&out, Default()); err != nil {
		t.Fatal(err)
	}
	got, err := load(t, out.String())
	if err != nil {
		t.Fatal(err)
	}
	requireSame(t, Default(), got.Config)
	for _, want := range []string{"segment_bytes: 256MiB", "segment_age: 168h\n", "retention_bytes: -1", "rtt: 50ms"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q not printed", want)
		}
	}
}
