package httpadmin

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

// control answers like a broker with one topic, orders, of two partitions.
func control(_ context.Context, verb string, body []byte) []byte {
	var request protocol.TopicRequest
	if err := json.Unmarshal(body, &request); err != nil {
		panic(err)
	}
	var reply any = protocol.Envelope[protocol.ClusterInfo]{Body: protocol.ClusterInfo{ClusterName: "test", Nodes: []protocol.NodeInfo{{ID: 1}}}}
	switch {
	case verb == protocol.VerbGroupList:
		reply = protocol.Envelope[protocol.GroupListReply]{Body: protocol.GroupListReply{Groups: []protocol.GroupSummary{{Group: "workers"}}}}
	case verb == protocol.VerbGroupDescribed && strings.Contains(string(body), "workers"):
		reply = protocol.Envelope[protocol.GroupDescription]{Body: protocol.GroupDescription{Group: "workers", TotalLag: 7}}
	case verb == protocol.VerbGroupDescribed:
		reply = protocol.Envelope[protocol.Empty]{Error: protocol.NewControlError(errcode.New(errcode.GroupIDNotFound, "no such group"))}
	case verb == protocol.VerbTopicList:
		reply = protocol.Envelope[protocol.TopicListReply]{}
	case verb == protocol.VerbTopicDescribe && request.Name != "orders":
		reply = protocol.Envelope[protocol.Empty]{Error: protocol.NewControlError(errcode.New(errcode.UnknownTopicOrPartition, "no such topic"))}
	case verb == protocol.VerbTopicDescribe:
		reply = protocol.Envelope[protocol.TopicDescription]{Body: protocol.TopicDescription{Name: "orders", Partitions: []protocol.PartitionDescription{{Partition: 0}, {Partition: 1}}}}
	case verb == protocol.VerbRaftShow && strings.Contains(string(body), `"group_shard":2`):
		reply = protocol.Envelope[protocol.RaftShowReply]{Body: protocol.RaftShowReply{Shard: 4}}
	case verb == protocol.VerbRaftShow:
		reply = protocol.Envelope[protocol.RaftShowReply]{Body: protocol.RaftShowReply{Shard: 1}}
	}
	raw, err := json.Marshal(reply)
	if err != nil {
		panic(err)
	}
	return raw
}

func start(t *testing.T, change func(*Options)) string {
	t.Helper()
	o := Options{
		Listen: "127.0.0.1:0", Ready: func() []string { return nil }, Control: control,
		Metrics: prometheus.NewRegistry(), Detailed: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return "http://" + s.Addr()
}

func get(t *testing.T, url, token string) (status int, contentType, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header.Get("Content-Type"), string(raw)
}

func TestEveryPathAnswers(t *testing.T) {
	base := start(t, func(o *Options) { o.Pprof = true })
	tests := []struct {
		path     string
		status   int
		contains string
	}{
		{"/", 200, "/api/v1/topics"},
		{"/livez", 200, "ok"},
		{"/readyz", 200, "ok"},
		{"/healthz", 200, "ok"},
		{"/version", 200, "revision"},
		{"/metrics", 200, ""},
		{"/metrics/detailed", 200, ""},
		{"/debug/pprof/", 200, "goroutine"},
		{"/api/v1/cluster", 200, `"cluster_name":"test"`},
		{"/api/v1/cluster/health", 200, "healthy"},
		{"/api/v1/nodes", 200, `[{"id":1`},
		{"/api/v1/topics", 200, "[]"},
		{"/api/v1/topics/orders", 200, `"name":"orders"`},
		{"/api/v1/topics/orders/partitions/1", 200, `"partition":1`},
		{"/api/v1/raft", 200, `"shard":1`},
		{"/api/v1/topics/none", 404, "UNKNOWN_TOPIC_OR_PARTITION"},
		{"/api/v1/topics/orders/partitions/2", 404, "has 2 partitions"},
		{"/api/v1/topics/orders/partitions/x", 400, "not a number"},
		{"/api/v1/raft?partition=-1", 400, "not a number"},
		{"/api/v1/raft?shard=groups/2", 200, `"shard":4`},
		{"/api/v1/raft?shard=metadata", 200, `"shard":1`},
		{"/api/v1/raft?shard=groups", 400, "not metadata, groups/N or TOPIC/PARTITION"},
		{"/api/v1/groups", 200, `[{"group":"workers"`},
		{"/api/v1/groups/workers", 200, `"total_lag":7`},
		{"/api/v1/groups/none", 404, "GROUP_ID_NOT_FOUND"},
		{"/api/v1/events", 501, "not built yet"},
		{"/nowhere", 404, "there is no GET /nowhere"},
	}
	for _, test := range tests {
		status, contentType, body := get(t, base+test.path, "")
		if status != test.status || !strings.Contains(body, test.contains) {
			t.Errorf("%s: %d %s", test.path, status, body)
		}
		if status >= 400 && contentType != "application/problem+json" {
			t.Errorf("%s: an error of type %s", test.path, contentType)
		}
	}
}

func TestANodeThatIsNotReadySaysWhy(t *testing.T) {
	base := start(t, func(o *Options) { o.Ready = func() []string { return []string{"metadata has no leader"} } })
	status, _, body := get(t, base+"/readyz", "")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "metadata has no leader") {
		t.Fatalf("%d %s", status, body)
	}
	if status, _, _ := get(t, base+"/livez", ""); status != 200 {
		t.Fatal("not ready is not dead")
	}
}

func TestTheTokenGuardsAllButTheProbes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := start(t, func(o *Options) { o.TokenFile = file })
	for path, want := range map[string]int{"/metrics": 401, "/api/v1/cluster": 401, "/livez": 200, "/readyz": 200, "/version": 200} {
		if status, _, _ := get(t, base+path, "wrong"); status != want {
			t.Errorf("%s with a wrong token: %d, want %d", path, status, want)
		}
	}
	if status, _, _ := get(t, base+"/metrics", "s3cret"); status != 200 {
		t.Errorf("the token was not taken: %d", status)
	}
}

func TestABusyPortIsNamed(t *testing.T) {
	base := start(t, nil)
	addr := strings.TrimPrefix(base, "http://")
	_, err := Start(Options{Listen: addr, Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), addr) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("error: %v", err)
	}
}
