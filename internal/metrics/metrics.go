// Package metrics holds the broker's own Prometheus metrics and the collectors
// for what other parts count themselves. It measures nothing: the parts call it
// or are asked by it at scrape time.
//
// Two registries: Broker.Registry is the low-cardinality page (/metrics),
// Broker.Detailed adds what grows with the number of partitions. All names
// begin with logbroker_, durations are in seconds, sizes in bytes.
package metrics

import (
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"logbroker/internal/buildinfo"
	"logbroker/internal/errcode"
)

const namespace = "logbroker"

// topicsMax bounds the topic label: further topics are counted as "other", so
// that topics made in a loop cannot grow a node's memory without end.
const topicsMax = 1000

// Broker are one node's metrics. Its methods may be called from any goroutine.
type Broker struct {
	Registry *prometheus.Registry
	Detailed *prometheus.Registry

	leadershipChanges prometheus.Counter
	produceRecords    *prometheus.CounterVec
	produceBytes      *prometheus.CounterVec
	produceDuplicates *prometheus.CounterVec
	fetchRecords      prometheus.Counter
	fetchBytes        prometheus.Counter
	requests          *prometheus.HistogramVec
	groupRebalances   prometheus.Counter
	offsetCommits     prometheus.Counter
	damageFound       prometheus.Counter
	scrubbedBytes     prometheus.Counter
	partitionSyncs    prometheus.Histogram
	partitionSaves    prometheus.Histogram
	fetchedBytes      prometheus.Counter
	givenBytes        prometheus.Counter
	repaired          prometheus.Counter
	replaced          prometheus.Counter

	// topics and timers cache the vectors' children, which are looked up for
	// every batch.
	topics     sync.Map // topic → *topicCounters
	topicCount int      // guarded by topicsMu
	topicsMu   sync.Mutex
	timers     sync.Map // requestKey → prometheus.Observer
}

type topicCounters struct{ records, bytes, duplicates prometheus.Counter }

type requestKey struct {
	api  string
	code errcode.Code
}

// New returns a node's metrics with build_info set.
func New() *Broker {
	b := &Broker{
		Registry: prometheus.NewRegistry(), Detailed: prometheus.NewRegistry(),
		leadershipChanges: counter("leadership_changes_total", "Leaderships this node took or lost."),
		produceRecords:    topicCounter("produce_records_total", "Records stored, by topic."),
		produceBytes:      topicCounter("produce_bytes_total", "Bytes of batches stored, by topic."),
		produceDuplicates: topicCounter("produce_duplicates_total", "Batches recognised as already stored, by topic."),
		fetchRecords:      counter("fetch_records_total", "Records handed out."),
		fetchBytes:        counter("fetch_bytes_total", "Bytes of batches handed out."),
		groupRebalances:   counter("group_rebalances_total", "New assignments of consumer groups that this node coordinated."),
		offsetCommits:     counter("offset_commits_total", "Offsets committed through this node as a coordinator, one per partition."),
		damageFound:       counter("damage_found_total", "Replicas whose files or Raft log a read, a scrub or a start found damaged, lost or put back from a copy."),
		scrubbedBytes:     counter("scrubbed_bytes_total", "Bytes read again to look for damage."),
		fetchedBytes:      counter("segments_fetched_bytes_total", "Bytes of segments that replicas here lacked and fetched from peers."),
		givenBytes:        counter("segments_given_bytes_total", "Bytes of segments given to peers that lacked them."),
		repaired:          counter("segments_repaired_total", "Damaged segments that were replaced by a peer's."),
		replaced:          counter("replicas_replaced_total", "Replicas of this node that were lost, and whose replacement votes."),
		partitionSyncs:    partitionHistogram("partition_sync_duration_seconds", "Time for which one sync of a partition's state holds up its applying."),
		partitionSaves:    partitionHistogram("partition_save_duration_seconds", "Time of the disk for one sync of a partition's state, beside its applying."),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "request_duration_seconds", Help: "Time from a request's arrival to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 16),
		}, []string{"api", "code"}),
	}
	info := buildinfo.Read()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the labels say which build this is.",
		ConstLabels: prometheus.Labels{"version": info.Version, "revision": info.Revision, "go": info.Go},
	})
	build.Set(1)
	b.Registry.MustRegister(build, b.leadershipChanges, b.produceRecords, b.produceBytes, b.produceDuplicates,
		b.fetchRecords, b.fetchBytes, b.requests, b.groupRebalances, b.offsetCommits, b.damageFound, b.scrubbedBytes, b.partitionSyncs, b.partitionSaves, b.fetchedBytes, b.givenBytes, b.repaired, b.replaced)
	return b
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
}

func topicCounter(name, help string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, []string{"topic"})
}

// LeadershipChanged counts a leadership taken or lost.
func (b *Broker) LeadershipChanged() { b.leadershipChanges.Inc() }

// Request counts one answered request.
func (b *Broker) Request(api string, code errcode.Code, took time.Duration) {
	key := requestKey{api, code}
	observer, ok := b.timers.Load(key)
	if !ok {
		observer, _ = b.timers.LoadOrStore(key, b.requests.WithLabelValues(api, code.String()))
	}
	observer.(prometheus.Observer).Observe(took.Seconds())
}

// Produced counts one batch that was stored, or recognised as stored before.
func (b *Broker) Produced(topic string, records, bytes int, duplicate bool) {
	c := b.topic(topic)
	if duplicate {
		c.duplicates.Inc()
		return
	}
	c.records.Add(float64(records))
	c.bytes.Add(float64(bytes))
}

// Fetched counts one reply with batches.
func (b *Broker) Fetched(records, bytes int) {
	b.fetchRecords.Add(float64(records))
	b.fetchBytes.Add(float64(bytes))
}

// GroupRebalanced counts a new assignment of a consumer group.
func (b *Broker) GroupRebalanced() { b.groupRebalances.Inc() }

// OffsetsCommitted counts committed offsets.
func (b *Broker) OffsetsCommitted(n int) { b.offsetCommits.Add(float64(n)) }

// DamageFound counts a replica whose files or Raft log were found damaged or lost.
func (b *Broker) DamageFound() { b.damageFound.Inc() }

// Scrubbed counts bytes that were read again to look for damage.
func (b *Broker) Scrubbed(bytes int) { b.scrubbedBytes.Add(float64(bytes)) }

// SegmentsFetched counts bytes of segments that came from a peer.
func (b *Broker) SegmentsFetched(bytes int) { b.fetchedBytes.Add(float64(bytes)) }

// ReplicaReplaced counts a replica whose replacement votes.
func (b *Broker) ReplicaReplaced() { b.replaced.Inc() }

// SegmentRepaired counts a damaged segment that was replaced.
func (b *Broker) SegmentRepaired() { b.repaired.Inc() }

// SegmentsGiven counts bytes of segments that went to a peer.
func (b *Broker) SegmentsGiven(bytes int) { b.givenBytes.Add(float64(bytes)) }

// PartitionSynced notes for how long a sync of a partition's state held up its applying.
func (b *Broker) PartitionSynced(took time.Duration) { b.partitionSyncs.Observe(took.Seconds()) }

// PartitionSaved notes how long the disk took for a sync of a partition's state.
func (b *Broker) PartitionSaved(took time.Duration) { b.partitionSaves.Observe(took.Seconds()) }

func partitionHistogram(name, help string) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Name: name, Help: help,
		Buckets: []float64{.0001, .0005, .001, .0025, .005, .0075, .01, .015, .02, .03, .04, .05, .075, .1, .25, .5, 1, 2.5},
	})
}

func (b *Broker) topic(name string) *topicCounters {
	if c, ok := b.topics.Load(name); ok {
		return c.(*topicCounters)
	}
	b.topicsMu.Lock()
	defer b.topicsMu.Unlock()
	if b.topicCount >= topicsMax {
		name = "other"
	}
	made := &topicCounters{b.produceRecords.WithLabelValues(name), b.produceBytes.WithLabelValues(name), b.produceDuplicates.WithLabelValues(name)}
	c, loaded := b.topics.LoadOrStore(name, made)
	if !loaded {
		b.topicCount++
	}
	return c.(*topicCounters)
}

// Node is a node's state at scrape time.
type Node struct {
	// Partitions counts replicas by state (leader, follower, stopped, …).
	Partitions        map[string]int
	SegmentBytes      int64
	MissingBytes      int64 // of segments that are being fetched from peers
	RaftLogBytes      uint64
	DiskFreeBytes     uint64
	DiskLow           bool // below the disk reserve
	ClientConnections int
	// SyncBounds and SyncCounts are the cumulative histogram of Raft log syncs.
	SyncBounds []time.Duration
	SyncCounts []uint64
	SyncCount  uint64
	SyncSum    time.Duration
	// Replicas are listed on the detailed page only.
	Replicas []Replica
}

// Replica is one replica of a partition at scrape time.
type Replica struct {
	Topic         string
	Partition     int32
	LogStart      int64
	HighWatermark int64
	SizeBytes     int64
	HasLeader     bool
}

// Observe registers collectors that call state at every scrape.
func (b *Broker) Observe(state func() Node) {
	b.Registry.MustRegister(&nodeCollector{state: state})
	b.Detailed.MustRegister(&partitionCollector{state: state})
}

// DetailedWith is the detailed page with the metrics that another library writes.
func (b *Broker) DetailedWith(write func(io.Writer)) prometheus.Gatherer {
	return prometheus.Gatherers{b.Detailed, Foreign(write)}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

var (
	descPartitions  = desc("partitions", "Replicas on this node by state.", "state")
	descSegment     = desc("segment_bytes", "Bytes in all segments of this node.")
	descMissing     = desc("segments_missing_bytes", "Bytes of segments that replicas here lack and are fetching from peers.")
	descRaftLog     = desc("raft_log_bytes", "Bytes handed to the Raft log since start.")
	descDiskFree    = desc("disk_free_bytes", "Free bytes on the data disk.")
	descDiskLow     = desc("disk_reserve_reached", "1 while the node is below its disk reserve and produce is refused.")
	descConnections = desc("client_connections", "Open client connections.")
	descSync        = desc("raft_log_sync_duration_seconds", "Time of one sync of the Raft log.")

	descLogStart = desc("partition_log_start_offset", "First offset that can be read.", "topic", "partition")
	descHigh     = desc("partition_high_watermark_offset", "Next offset after the last committed record.", "topic", "partition")
	descSize     = desc("partition_size_bytes", "Bytes in the partition's segments on this node.", "topic", "partition")
	descLeader   = desc("partition_has_leader", "1 if this node knows a leader of the partition.", "topic", "partition")
)

type nodeCollector struct{ state func() Node }

// Describe lists what Collect sends.
func (c *nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPartitions, descSegment, descMissing, descRaftLog, descDiskFree, descDiskLow, descConnections, descSync} {
		ch <- d
	}
}

// Collect sends the node's state.
func (c *nodeCollector) Collect(ch chan<- prometheus.Metric) {
	n := c.state()
	for state, count := range n.Partitions {
		ch <- gauge(descPartitions, float64(count), state)
	}
	ch <- gauge(descSegment, float64(n.SegmentBytes))
	ch <- gauge(descMissing, float64(n.MissingBytes))
	ch <- prometheus.MustNewConstMetric(descRaftLog, prometheus.CounterValue, float64(n.RaftLogBytes))
	ch <- gauge(descDiskFree, float64(n.DiskFreeBytes))
	ch <- gauge(descDiskLow, oneIf(n.DiskLow))
	ch <- gauge(descConnections, float64(n.ClientConnections))
	buckets := make(map[float64]uint64, len(n.SyncBounds))
	for i, bound := range n.SyncBounds {
		buckets[bound.Seconds()] = n.SyncCounts[i]
	}
	ch <- prometheus.MustNewConstHistogram(descSync, n.SyncCount, n.SyncSum.Seconds(), buckets)
}

type partitionCollector struct{ state func() Node }

// Describe lists what Collect sends.
func (c *partitionCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descLogStart, descHigh, descSize, descLeader} {
		ch <- d
	}
}

// Collect sends the state of every replica.
func (c *partitionCollector) Collect(ch chan<- prometheus.Metric) {
	for _, r := range c.state().Replicas {
		partition := strconv.Itoa(int(r.Partition))
		ch <- gauge(descLogStart, float64(r.LogStart), r.Topic, partition)
		ch <- gauge(descHigh, float64(r.HighWatermark), r.Topic, partition)
		ch <- gauge(descSize, float64(r.SizeBytes), r.Topic, partition)
		ch <- gauge(descLeader, oneIf(r.HasLeader), r.Topic, partition)
	}
}

// Group is a consumer group at scrape time, on the node that coordinates it.
type Group struct {
	Name    string
	Members int
	Lag     []TopicLag // of the topics whose lag is known
}

// TopicLag is what a group has still to read of a topic.
type TopicLag struct {
	Topic string
	Lag   int64
}

// groupSeriesMax bounds the series of one scrape: groups are made by clients.
const groupSeriesMax = 10_000

var (
	descGroupLag     = desc("consumer_group_lag", "Records that a consumer group has still to read, where this node coordinates it.", "group", "topic")
	descGroupMembers = desc("consumer_group_members", "Members of a consumer group, where this node coordinates it.", "group")
)

// ObserveGroups registers a collector that calls state at every scrape.
func (b *Broker) ObserveGroups(state func() []Group) {
	b.Registry.MustRegister(&groupCollector{state: state})
}

type groupCollector struct{ state func() []Group }

// Describe lists what Collect sends.
func (c *groupCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descGroupLag
	ch <- descGroupMembers
}

// Collect sends the groups, as many as fit under groupSeriesMax.
func (c *groupCollector) Collect(ch chan<- prometheus.Metric) {
	series := 0
	for _, g := range c.state() {
		if series += 1 + len(g.Lag); series > groupSeriesMax {
			return
		}
		ch <- gauge(descGroupMembers, float64(g.Members), g.Name)
		for _, t := range g.Lag {
			ch <- gauge(descGroupLag, float64(t.Lag), g.Name, t.Topic)
		}
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func gauge(d *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}
