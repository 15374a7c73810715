// Package config is the broker's configuration: a typed tree, its defaults,
// its validation, and its loading from flags, environment and file.
//
// viper lives here and nowhere else. The package opens no port and makes no
// directory; it only says what the operator asked for. Start at Config, then
// read Load.
package config

import "time"

// Config is the whole configuration of one node. Field tags give the key's
// name in the file and the comment that `config print --defaults` writes.
type Config struct {
	Cluster       Cluster       `mapstructure:"cluster" doc:"Who this node is and how it finds the others."`
	Insecure      bool          `mapstructure:"insecure" doc:"Allow listening beyond loopback without TLS."`
	Storage       Storage       `mapstructure:"storage" doc:"Where the log lives and how it is cut into segments."`
	Client        Client        `mapstructure:"client" doc:"The client port (NATS protocol)."`
	NATSCluster   NATSCluster   `mapstructure:"nats_cluster" doc:"Routes between brokers; the route list comes from the cluster itself."`
	Kafka         Kafka         `mapstructure:"kafka" doc:"The Kafka protocol front door (not built yet)."`
	Raft          Raft          `mapstructure:"raft" doc:"Replication between brokers."`
	TopicDefaults TopicDefaults `mapstructure:"topic_defaults" doc:"Settings a new topic gets where its creator names none."`
	ProducerState ProducerState `mapstructure:"producer_state" doc:"What a partition remembers of its producers to de-duplicate retries."`
	Groups        Groups        `mapstructure:"groups" doc:"Consumer groups."`
	Leaders       Leaders       `mapstructure:"leaders" doc:"How leadership is spread over the nodes."`
	HTTP          HTTP          `mapstructure:"http" doc:"Probes, metrics and the JSON API."`
	TLS           TLS           `mapstructure:"tls" doc:"One certificate for clients, routes, Raft and HTTP. Empty means plain text."`
	Log           Log           `mapstructure:"log" doc:"Logging, to stderr."`
	Shutdown      Shutdown      `mapstructure:"shutdown" doc:"Stopping."`
}

// Cluster names the node and its peers.
type Cluster struct {
	Name          string   `mapstructure:"name" doc:"Cluster name; nodes of another name are refused."`
	NodeID        uint64   `mapstructure:"node_id" doc:"This node's number in the cluster, 1 or more, unique, never reused."`
	AdvertiseHost string   `mapstructure:"advertise_host" doc:"Host the others reach this node at; empty: the host of each listen address."`
	Founders      []string `mapstructure:"founders" doc:"raft.listen addresses of the initial nodes, the same set on each; empty: a cluster of one."`
	Seeds         []string `mapstructure:"seeds" doc:"Raft addresses of existing nodes, for a node that joins later."`
	Rack          string   `mapstructure:"rack" doc:"Failure domain; replicas are spread over racks."`
}

// Storage is the disk.
type Storage struct {
	DataDir                string        `mapstructure:"data_dir" doc:"Directory of the log."`
	RaftDir                string        `mapstructure:"raft_dir" doc:"Directory of the Raft log; empty: <data_dir>/raft."`
	SegmentBytes           ByteSize      `mapstructure:"segment_bytes" doc:"A segment is closed at this size (copied into a topic when it is created)."`
	SegmentAge             time.Duration `mapstructure:"segment_age" doc:"A segment is closed at this age (copied into a topic when it is created)."`
	IndexIntervalBytes     ByteSize      `mapstructure:"index_interval_bytes" doc:"One index entry per so many bytes."`
	MinFreeBytes           ByteSize      `mapstructure:"min_free_bytes" doc:"Below this much free disk, produce to partitions with a replica here is refused."`
	RetentionCheckInterval time.Duration `mapstructure:"retention_check_interval" doc:"How often retention is looked at."`
	ScrubInterval          time.Duration `mapstructure:"scrub_interval" doc:"How often everything stored is read again to find damage; 0s never."`
	ScrubBytesPerSecond    ByteSize      `mapstructure:"scrub_bytes_per_second" doc:"How fast it is read; 0 as fast as the disk."`
	CatchUpBytesPerSecond  ByteSize      `mapstructure:"catch_up_bytes_per_second" doc:"How fast replicas that lack segments are given them, and fetch them; 0 as fast as can be, else at least 1MiB. Where more is appended than that, they stay behind."`
}

// Client is the client port.
type Client struct {
	Listen        string   `mapstructure:"listen" doc:"host:port for clients."`
	MaxBatchBytes ByteSize `mapstructure:"max_batch_bytes" doc:"Largest batch any topic may accept, at most 1MiB."`
	ExternalURLs  []string `mapstructure:"external_urls" doc:"URLs told to clients instead of the listen address (NAT, load balancer)."`
}

// NATSCluster is the route port.
type NATSCluster struct {
	Listen string `mapstructure:"listen" doc:"host:port for routes from other brokers."`
}

// Kafka is the Kafka front door.
type Kafka struct {
	Enabled   bool   `mapstructure:"enabled" doc:"Must be false: the Kafka front door is not built yet."`
	Listen    string `mapstructure:"listen" doc:"host:port for Kafka clients."`
	Advertise string `mapstructure:"advertise" doc:"Address told to Kafka clients."`
}

// Raft is replication.
type Raft struct {
	Listen           string        `mapstructure:"listen" doc:"host:port for Raft and for founding and joining."`
	RTT              time.Duration `mapstructure:"rtt" doc:"Raft's tick. Election and heartbeat are counted in it. Whole milliseconds."`
	ElectionRTT      uint64        `mapstructure:"election_rtt" doc:"Ticks without a heartbeat before an election; the wait is randomised between one and two times this."`
	HeartbeatRTT     uint64        `mapstructure:"heartbeat_rtt" doc:"Ticks between heartbeats."`
	MaxInFlightBytes ByteSize      `mapstructure:"max_in_flight_bytes" doc:"Produce bytes a node holds that are not acked yet; beyond it: THROTTLED."`
}

// TopicDefaults are the settings of a topic whose creator names none.
type TopicDefaults struct {
	Partitions     int32         `mapstructure:"partitions" doc:"Partitions of a new topic."`
	Replicas       int           `mapstructure:"replicas" doc:"Replicas of a partition; 0 means min(3, nodes)."`
	RetentionAge   time.Duration `mapstructure:"retention_age" doc:"Records older than this (since they were appended) may be removed; 0 keeps them."`
	RetentionBytes ByteSize      `mapstructure:"retention_bytes" doc:"A partition may be cut down to this size; -1 keeps everything."`
	MaxBatchBytes  ByteSize      `mapstructure:"max_batch_bytes" doc:"Largest batch the topic accepts."`
	Cleanup        string        `mapstructure:"cleanup" doc:"delete (compact is not built yet)."`
}

// ProducerState is the de-duplication table.
type ProducerState struct {
	Expiry time.Duration `mapstructure:"expiry" doc:"A producer silent for this long is forgotten."`
	Window int           `mapstructure:"window" doc:"Batches a producer may have in flight to one partition."`
}

// Groups are the consumer group settings.
type Groups struct {
	SessionTimeout    time.Duration `mapstructure:"session_timeout" doc:"A member silent for this long has left, where it names no time of its own."`
	HeartbeatInterval time.Duration `mapstructure:"heartbeat_interval" doc:"How often a member reports."`
	OffsetRetention   time.Duration `mapstructure:"offset_retention" doc:"How long an empty group keeps its offsets."`
	CoordinatorShards int           `mapstructure:"coordinator_shards" doc:"Raft groups that hold the consumer groups; read once, when the cluster is founded."`
}

// Leaders is the leader balancer.
type Leaders struct {
	Balance  bool          `mapstructure:"balance" doc:"Move leadership until every node leads its share."`
	Interval time.Duration `mapstructure:"interval" doc:"How often the spread is looked at."`
	MaxMoves int           `mapstructure:"max_moves" doc:"Leaderships being moved at once, at most."`
}

// HTTP is the admin port.
type HTTP struct {
	Listen    string `mapstructure:"listen" doc:"host:port of probes, metrics and API."`
	Console   bool   `mapstructure:"console" doc:"Serve the console page (not built yet; no effect)."`
	Pprof     bool   `mapstructure:"pprof" doc:"Serve /debug/pprof."`
	TokenFile string `mapstructure:"token_file" doc:"File with a bearer token that /api, /metrics and /debug then demand."`
}

// TLS is the certificate used on every port.
type TLS struct {
	CertFile   string `mapstructure:"cert_file" doc:"PEM certificate chain."`
	KeyFile    string `mapstructure:"key_file" doc:"PEM private key."`
	CAFile     string `mapstructure:"ca_file" doc:"PEM roots that peers and clients are checked against."`
	ClientAuth string `mapstructure:"client_auth" doc:"none or require: whether clients must show a certificate of ca_file. Brokers always must among themselves."`
}

// Enabled reports whether a certificate is configured.
func (t TLS) Enabled() bool { return t.CertFile != "" || t.KeyFile != "" }

// Log is logging.
type Log struct {
	Level     string `mapstructure:"level" doc:"debug, info, warn or error."`
	Format    string `mapstructure:"format" doc:"auto (text on a terminal, else json), text or json."`
	RaftLevel string `mapstructure:"raft_level" doc:"Level of the Raft library."`
	NATSLevel string `mapstructure:"nats_level" doc:"Level of the embedded NATS server."`
}

// Shutdown is stopping.
type Shutdown struct {
	DrainTimeout time.Duration `mapstructure:"drain_timeout" doc:"Longest time SIGTERM may take: leaders move away, requests in flight end."`
}

// Default returns the configuration of a node nobody configured.
func Default() Config {
	const week = 168 * time.Hour
	return Config{
		Cluster:       Cluster{Name: "logbroker", NodeID: 1, Founders: []string{}, Seeds: []string{}},
		Storage:       Storage{DataDir: "./logbroker-data", SegmentBytes: 256 * MiB, SegmentAge: week, IndexIntervalBytes: 4 * KiB, MinFreeBytes: GiB, RetentionCheckInterval: time.Minute, ScrubInterval: 24 * time.Hour, ScrubBytesPerSecond: 16 * MiB, CatchUpBytesPerSecond: 64 * MiB},
		Client:        Client{Listen: "127.0.0.1:4222", MaxBatchBytes: MiB, ExternalURLs: []string{}},
		NATSCluster:   NATSCluster{Listen: "127.0.0.1:6222"},
		Kafka:         Kafka{Listen: "127.0.0.1:9092"},
		Raft:          Raft{Listen: "127.0.0.1:63001", RTT: 50 * time.Millisecond, ElectionRTT: 10, HeartbeatRTT: 1, MaxInFlightBytes: 64 * MiB},
		TopicDefaults: TopicDefaults{Partitions: 3, RetentionAge: week, RetentionBytes: -1, MaxBatchBytes: MiB, Cleanup: "delete"},
		ProducerState: ProducerState{Expiry: 24 * time.Hour, Window: 64},
		Groups:        Groups{SessionTimeout: 45 * time.Second, HeartbeatInterval: 3 * time.Second, OffsetRetention: week, CoordinatorShards: 4},
		Leaders:       Leaders{Balance: true, Interval: 5 * time.Second, MaxMoves: 4},
		HTTP:          HTTP{Listen: "127.0.0.1:9644", Console: true},
		TLS:           TLS{ClientAuth: "none"},
		Log:           Log{Level: "info", Format: "auto", RaftLevel: "warn", NATSLevel: "warn"},
		Shutdown:      Shutdown{DrainTimeout: 30 * time.Second},
	}
}
