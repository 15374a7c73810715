package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"
)

// batchBytesMax is the largest batch: bigger Raft entries pin memory inside
// the Raft library.
const batchBytesMax = MiB

// ErrNotBuilt is wrapped by a fault of a setting whose feature does not exist yet.
var ErrNotBuilt = errors.New("not built yet")

// Validate returns every fault of the configuration at once, nil if there is
// none. Each fault names its key.
func (c Config) Validate() error {
	v := &validator{}
	c.validateCluster(v)
	c.validateAddresses(v)
	c.validateStorage(v)
	c.validateRaft(v)
	c.validateTopics(v)
	c.validateGroups(v)
	c.validateNames(v)
	c.validateUnbuilt(v)
	return errors.Join(v.faults...)
}

type validator struct{ faults []error }

func (v *validator) check(ok bool, key, format string, args ...any) {
	if !ok {
		v.faults = append(v.faults, fmt.Errorf("config: %s: %s", key, fmt.Sprintf(format, args...)))
	}
}

// built is check for a setting whose other values are not built yet.
func (v *validator) built(ok bool, key, text string) {
	if !ok {
		v.faults = append(v.faults, fmt.Errorf("config: %s: %s %w", key, text, ErrNotBuilt))
	}
}

func (c Config) validateCluster(v *validator) {
	v.check(c.Cluster.Name != "", "cluster.name", "is empty; give the cluster a name")
	v.check(c.Cluster.NodeID > 0, "cluster.node_id", "is 0; node ids start at 1")
	v.check(c.Cluster.NodeID < 1<<32, "cluster.node_id", "is above 4294967295")
	v.check(len(c.Cluster.Founders) == 0 || len(c.Cluster.Seeds) == 0, "cluster.seeds",
		"is set together with cluster.founders; a founder has no seeds, a later node has no founders")
	for _, list := range []struct {
		key   string
		addrs []string
	}{{"cluster.founders", c.Cluster.Founders}, {"cluster.seeds", c.Cluster.Seeds}} {
		seen := map[string]bool{}
		for _, addr := range list.addrs {
			v.address(list.key, addr)
			v.check(!seen[addr], list.key, "names %s twice", addr)
			seen[addr] = true
		}
	}
	n := len(c.Cluster.Founders)
	v.check(n <= 7, "cluster.founders", "has %d addresses; found with at most 7 and join the rest through cluster.seeds", n)
}

func (c Config) validateAddresses(v *validator) {
	listens := map[string]string{}
	for _, a := range []struct{ key, addr string }{
		{"client.listen", c.Client.Listen},
		{"nats_cluster.listen", c.NATSCluster.Listen},
		{"raft.listen", c.Raft.Listen},
		{"http.listen", c.HTTP.Listen},
	} {
		host, port := v.address(a.key, a.addr)
		if other, taken := listens[a.addr]; taken && port != "0" {
			v.check(false, a.key, "is the same address as %s: %s", other, a.addr)
		}
		listens[a.addr] = a.key
		v.check(c.Insecure || c.TLS.Enabled() || loopback(host), a.key,
			"%s is reachable from outside without TLS; set tls.cert_file and tls.key_file, or say insecure: true", a.addr)
		v.check(c.Cluster.AdvertiseHost != "" || !unspecified(host), a.key,
			"%s is no address others can connect to; set cluster.advertise_host", a.addr)
	}
	v.check((c.TLS.CertFile == "") == (c.TLS.KeyFile == ""), "tls", "needs both cert_file and key_file")
	v.check(c.TLS.Enabled() || c.TLS.CAFile == "", "tls.ca_file", "is set without cert_file and key_file")
	v.check(slices.Contains([]string{"none", "require"}, c.TLS.ClientAuth), "tls.client_auth", "is %q; use none or require", c.TLS.ClientAuth)
	v.check(c.TLS.ClientAuth != "require" || c.TLS.CAFile != "", "tls.client_auth", "require needs tls.ca_file to check clients against")
}

func (c Config) validateStorage(v *validator) {
	s := c.Storage
	v.check(s.DataDir != "", "storage.data_dir", "is empty; name a directory")
	v.check(s.SegmentBytes >= MiB && s.SegmentBytes <= 2*GiB-1, "storage.segment_bytes", "is %s; use 1MiB to just under 2GiB", s.SegmentBytes)
	v.check(s.SegmentAge >= time.Second, "storage.segment_age", "is %s; use at least 1s", s.SegmentAge)
	v.check(s.IndexIntervalBytes >= 512 && s.IndexIntervalBytes <= MiB, "storage.index_interval_bytes", "is %s; use 512 to 1MiB", s.IndexIntervalBytes)
	v.check(s.MinFreeBytes >= 0, "storage.min_free_bytes", "is negative")
	v.check(s.RetentionCheckInterval >= 100*time.Millisecond, "storage.retention_check_interval", "is %s; use at least 100ms", s.RetentionCheckInterval)
	v.check(s.ScrubInterval == 0 || s.ScrubInterval >= 100*time.Millisecond, "storage.scrub_interval", "is %s; use at least 100ms, or 0s for never", s.ScrubInterval)
	v.check(s.CatchUpBytesPerSecond == 0 || s.CatchUpBytesPerSecond >= MiB, "storage.catch_up_bytes_per_second", "is less than 1MiB; use more, or 0 for no bound")
	v.check(s.ScrubBytesPerSecond >= 0, "storage.scrub_bytes_per_second", "is negative")
	v.check(c.Shutdown.DrainTimeout > 0, "shutdown.drain_timeout", "is %s; use more than 0s", c.Shutdown.DrainTimeout)
}

func (c Config) validateRaft(v *validator) {
	r := c.Raft
	v.check(r.RTT >= time.Millisecond && r.RTT%time.Millisecond == 0, "raft.rtt", "is %s; use whole milliseconds, at least 1ms", r.RTT)
	v.check(r.HeartbeatRTT >= 1, "raft.heartbeat_rtt", "is 0; use at least 1")
	v.check(r.ElectionRTT > 2*r.HeartbeatRTT, "raft.election_rtt", "is %d; use more than twice raft.heartbeat_rtt (%d)", r.ElectionRTT, r.HeartbeatRTT)
	v.check(r.MaxInFlightBytes >= 4*MiB, "raft.max_in_flight_bytes", "is %s; use at least 4MiB", r.MaxInFlightBytes)
	v.check(c.ProducerState.Window >= 1 && c.ProducerState.Window <= 1024, "producer_state.window", "is %d; use 1 to 1024", c.ProducerState.Window)
	v.check(c.ProducerState.Expiry >= time.Minute, "producer_state.expiry", "is %s; use at least 1m", c.ProducerState.Expiry)
	v.check(c.Leaders.Interval >= 100*time.Millisecond, "leaders.interval", "is %s; use at least 100ms", c.Leaders.Interval)
	v.check(c.Leaders.MaxMoves >= 1, "leaders.max_moves", "is %d; use at least 1", c.Leaders.MaxMoves)
}

func (c Config) validateTopics(v *validator) {
	t := c.TopicDefaults
	v.check(c.Client.MaxBatchBytes >= KiB && c.Client.MaxBatchBytes <= batchBytesMax, "client.max_batch_bytes", "is %s; use 1KiB to %s", c.Client.MaxBatchBytes, batchBytesMax)
	v.check(t.MaxBatchBytes >= KiB && t.MaxBatchBytes <= c.Client.MaxBatchBytes, "topic_defaults.max_batch_bytes", "is %s; use 1KiB to client.max_batch_bytes (%s)", t.MaxBatchBytes, c.Client.MaxBatchBytes)
	v.check(t.Partitions >= 1 && t.Partitions <= 10000, "topic_defaults.partitions", "is %d; use 1 to 10000", t.Partitions)
	v.check(t.Replicas >= 0, "topic_defaults.replicas", "is negative; use 0 for min(3, nodes)")
	v.check(t.RetentionAge >= 0, "topic_defaults.retention_age", "is negative; use 0s to keep records forever")
	v.check(t.RetentionBytes == -1 || t.RetentionBytes > 0, "topic_defaults.retention_bytes", "is %s; use a size, or -1 to keep everything", t.RetentionBytes)
}

func (c Config) validateGroups(v *validator) {
	g := c.Groups
	v.check(g.SessionTimeout >= time.Second && g.SessionTimeout <= 30*time.Minute, "groups.session_timeout", "is %s; use 1s to 30m", g.SessionTimeout)
	v.check(g.HeartbeatInterval >= 100*time.Millisecond && g.HeartbeatInterval <= g.SessionTimeout/3, "groups.heartbeat_interval",
		"is %s; use 100ms to a third of groups.session_timeout (%s)", g.HeartbeatInterval, g.SessionTimeout)
	v.check(g.OffsetRetention >= time.Minute, "groups.offset_retention", "is %s; use at least 1m", g.OffsetRetention)
	v.check(g.CoordinatorShards >= 1 && g.CoordinatorShards <= 64, "groups.coordinator_shards", "is %d; use 1 to 64", g.CoordinatorShards)
}

func (c Config) validateNames(v *validator) {
	levels := []string{"debug", "info", "warn", "error"}
	for _, l := range []struct{ key, value string }{
		{"log.level", c.Log.Level}, {"log.raft_level", c.Log.RaftLevel}, {"log.nats_level", c.Log.NATSLevel},
	} {
		v.check(slices.Contains(levels, l.value), l.key, "is %q; use one of %v", l.value, levels)
	}
	formats := []string{"auto", "text", "json"}
	v.check(slices.Contains(formats, c.Log.Format), "log.format", "is %q; use one of %v", c.Log.Format, formats)
}

// validateUnbuilt refuses settings whose feature does not exist yet: a setting
// is never ignored.
func (c Config) validateUnbuilt(v *validator) {
	d := Default()
	v.built(!c.Kafka.Enabled, "kafka.enabled", "leave it false; the Kafka front door is")
	v.built(c.Kafka == d.Kafka || c.Kafka.Enabled, "kafka", "leave its settings alone; the Kafka front door is")
	v.check(slices.Contains([]string{"delete", "compact"}, c.TopicDefaults.Cleanup), "topic_defaults.cleanup", "is %q; use delete", c.TopicDefaults.Cleanup)
	v.built(c.TopicDefaults.Cleanup != "compact", "topic_defaults.cleanup", "use delete; compact is")
}

// address checks host:port and returns its halves.
func (v *validator) address(key, addr string) (host, port string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		v.check(false, key, "%q is not host:port", addr)
		return "", ""
	}
	n, err := strconv.Atoi(port)
	v.check(err == nil && n >= 0 && n <= 65535, key, "%q has no port number from 0 to 65535", addr)
	return host, port
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || (ip != nil && ip.IsUnspecified())
}
