package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"logbroker/bench/load"
)

// Values of the sync setting.
const (
	syncDefault = "default" // fsync every two minutes
	syncAlways  = "always"  // fsync before the ack, as logbroker does
)

// Values of the option path.
const (
	pathAsync = "async" // PublishMsgAsync with a large window
	pathFast  = "fast"  // fast ingest (server 2.14) through orbit.go's jetstreamext
	pathAuto  = "auto"  // the faster of the two, by a short calibration (default)
)

// jetStreamNodes is the number of servers; a stream has a replica on each.
const jetStreamNodes = 3

// jetStreamSystem is NATS JetStream as three nats-server processes. A partition
// is a stream with one subject, or fewer streams are used where that is faster;
// their leaders are spread over the servers, and a client is connected to the
// leader's server.
//
// Options: path=async|fast|auto, streams=N (per topic, instead of the fastest),
// compression=none|s2 (of the stream).
type jetStreamSystem struct {
	sync string

	spec     load.Spec
	path     string
	settings map[string]string
	servers  processGroup
	nodes    []natsNode
	streams  []natsStream // running number over all topics: topic × partitions + partition
}

// natsStream is one partition.
type natsStream struct {
	name   string // of the stream, and its only subject
	server string // URL of the leader's server
}

// Name implements load.System.
func (s *jetStreamSystem) Name() string { return "jetstream_" + s.sync }

// Processes implements load.System.
func (s *jetStreamSystem) Processes() []int { return s.servers.pids() }

// Settings implements load.System.
func (s *jetStreamSystem) Settings() map[string]string { return maps.Clone(s.settings) }

// Durability implements load.Durable.
func (s *jetStreamSystem) Durability() string {
	if s.sync == syncAlways {
		return "a majority of the replicas has the record synced to disk"
	}
	return "a majority of the replicas has the record in memory of the operating system; synced every two minutes"
}

// Start implements load.System.
func (s *jetStreamSystem) Start(ctx context.Context, spec load.Spec) error {
	s.spec, s.path = spec, option(spec, "path", pathAuto)
	if s.sync != syncDefault && s.sync != syncAlways {
		return fmt.Errorf("sync %q: use %s or %s", s.sync, syncDefault, syncAlways)
	}
	if s.path != pathAsync && s.path != pathFast && s.path != pathAuto {
		return fmt.Errorf("option path=%s: use %s, %s or %s", s.path, pathAsync, pathFast, pathAuto)
	}
	if spec.Replicas > jetStreamNodes {
		return fmt.Errorf("%d replicas: jetstream is run with %d servers", spec.Replicas, jetStreamNodes)
	}
	if err := s.startServers(ctx); err != nil {
		return err
	}
	chosen, why, err := s.choose(ctx)
	if err != nil {
		return err
	}
	s.path = chosen.path
	made, err := s.createStreams(ctx, "bench", chosen.streams*spec.Topics)
	if err != nil {
		return err
	}
	s.streams = made
	s.settings = s.describe(chosen.streams, why)
	return nil
}

// choose returns path and number of streams per topic: as the options say, or
// what calibration finds fastest.
func (s *jetStreamSystem) choose(ctx context.Context) (candidate, string, error) {
	all := candidates(s.spec.Partitions)
	if text := option(s.spec, "streams", ""); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return candidate{}, "", fmt.Errorf("option streams=%s: use a number of 1 or more", text)
		}
		all = []candidate{{pathAsync, n}, {pathFast, n}}
	}
	all = slices.DeleteFunc(all, func(c candidate) bool { return s.path != pathAuto && s.path != c.path })
	if len(all) == 1 {
		return all[0], "by option", nil
	}
	return s.calibrate(ctx, all)
}

// Stop implements load.System.
func (s *jetStreamSystem) Stop() error { return s.servers.stop() }

func (s *jetStreamSystem) describe(streams int, why string) map[string]string {
	interval := "2m (default)"
	if s.sync == syncAlways {
		interval = "always"
	}
	return map[string]string{
		"server":        "nats-server " + server.VERSION,
		"client":        "nats.go " + nats.Version + ", orbit.go/jetstreamext",
		"servers":       strconv.Itoa(jetStreamNodes),
		"sync_interval": interval,
		"storage":       "file",
		"replicas":      strconv.Itoa(s.spec.Replicas),
		"streams":       fmt.Sprintf("%d per topic, one subject each, leaders spread over the servers", streams),
		"compression":   option(s.spec, "compression", "none"),
		"path":          s.path,
		"path chosen":   why,
		"connection":    "per producer and server, to the stream leader's server",
		"async window":  fmt.Sprintf("%d records per stream and producer", asyncWindow(s.spec.RecordSize)),
		"fast ingest": fmt.Sprintf("flow %d, max outstanding acks %d, gap fail; single publishes while there is no backlog",
			fastFlow(s.spec.RecordSize), fastOutstanding),
		"reading": fmt.Sprintf("ordered pull consumer per stream, %d records per pull", pullRecords(s.spec.RecordSize)),
	}
}

// startServers starts the processes and returns when JetStream has a leader.
func (s *jetStreamSystem) startServers(ctx context.Context) error {
	addresses, err := freeAddresses(2 * jetStreamNodes)
	if err != nil {
		return err
	}
	routes := addresses[jetStreamNodes:]
	for i := range jetStreamNodes {
		name := fmt.Sprintf("n%d", i+1)
		dir := filepath.Join(s.spec.Dir, name)
		s.nodes = append(s.nodes, natsNode{
			Name: name, Client: addresses[i], Cluster: routes[i], Routes: routes,
			Dir: dir, Log: dir + ".log", SyncAlways: s.sync == syncAlways,
		})
	}
	for _, n := range s.nodes {
		file, err := n.write()
		if err != nil {
			return err
		}
		if err := s.servers.start("nats-server", "-c", file); err != nil {
			return err
		}
	}
	return s.awaitCluster(ctx)
}

// awaitCluster waits until a replicated stream can be made and removed.
func (s *jetStreamSystem) awaitCluster(ctx context.Context) error {
	err := s.withControl(ctx, func(ctx context.Context, js jetstream.JetStream) error {
		if _, err := js.CreateStream(ctx, s.streamConfig("probe")); err != nil {
			return err
		}
		return js.DeleteStream(ctx, "probe")
	})
	if err == nil {
		return nil
	}
	return fmt.Errorf("the JetStream cluster did not form (its log: %s): %w", s.lastLog(), err)
}

// lastLog returns the end of the first server's log, which is in a directory
// that will be removed.
func (s *jetStreamSystem) lastLog() string {
	raw, err := os.ReadFile(s.nodes[0].Log)
	if err != nil {
		return err.Error()
	}
	const last = 500
	return strings.TrimSpace(string(raw[max(0, len(raw)-last):]))
}

// withControl runs step with a connection of its own, again until it succeeds
// or the time is over: a cluster that forms refuses for many reasons.
func (s *jetStreamSystem) withControl(ctx context.Context, step func(context.Context, jetstream.JetStream) error) error {
	return eventually(ctx, func() error {
		conn, err := nats.Connect("nats://" + s.nodes[0].Client)
		if err != nil {
			return fmt.Errorf("connecting to %s: %w", s.nodes[0].Client, err)
		}
		defer conn.Close()
		js, err := jetstream.New(conn)
		if err != nil {
			return fmt.Errorf("making a JetStream client: %w", err)
		}
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return step(attempt, js)
	})
}

func (s *jetStreamSystem) streamConfig(name string) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name: name, Subjects: []string{name}, Storage: jetstream.FileStorage, Replicas: s.spec.Replicas,
		AllowBatchPublish: s.path != pathAsync,
	}
	if option(s.spec, "compression", "none") == "s2" {
		c.Compression = jetstream.S2Compression
	}
	return c
}

// createStreams makes n streams and moves the leader of stream i to server i
// modulo the servers.
func (s *jetStreamSystem) createStreams(ctx context.Context, prefix string, n int) ([]natsStream, error) {
	streams := make([]natsStream, n)
	for i := range streams {
		name := fmt.Sprintf("%s-%d", prefix, i)
		err := s.withControl(ctx, func(ctx context.Context, js jetstream.JetStream) error {
			_, err := js.CreateOrUpdateStream(ctx, s.streamConfig(name))
			return err
		})
		leader := ""
		if err == nil {
			err = s.withControl(ctx, func(ctx context.Context, js jetstream.JetStream) (err error) {
				leader, err = s.settleLeader(ctx, js, name, s.nodes[i%jetStreamNodes].Name)
				return err
			})
		}
		if err != nil {
			return nil, fmt.Errorf("making stream %s: %w", name, err)
		}
		streams[i] = natsStream{name: name, server: s.urlOf(leader)}
	}
	return streams, nil
}

// urlOf returns the client URL of the server with that name.
func (s *jetStreamSystem) urlOf(name string) string {
	for _, n := range s.nodes {
		if n.Name == name {
			return "nats://" + n.Client
		}
	}
	return ""
}

func (s *jetStreamSystem) deleteStreams(ctx context.Context, streams []natsStream) error {
	return s.withControl(ctx, func(ctx context.Context, js jetstream.JetStream) error {
		for _, stream := range streams {
			if err := js.DeleteStream(ctx, stream.name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
				return fmt.Errorf("deleting stream %s: %w", stream.name, err)
			}
		}
		return nil
	})
}

// errNotYet says that the stream has another leader, or none.
var errNotYet = errors.New("the leader has not moved yet")

// settleLeader returns the stream's leader once it is the wanted server, and
// asks the leader to step down in favour of that one while it is not. A stream
// that is not on every server keeps the leader it has.
func (s *jetStreamSystem) settleLeader(ctx context.Context, js jetstream.JetStream, stream, wanted string) (string, error) {
	handle, err := js.Stream(ctx, stream)
	if err != nil {
		return "", fmt.Errorf("looking at stream %s: %w", stream, err)
	}
	cluster := handle.CachedInfo().Cluster
	if cluster == nil || cluster.Leader == "" {
		return "", errNotYet
	}
	if cluster.Leader == wanted || s.spec.Replicas < jetStreamNodes {
		return cluster.Leader, nil
	}
	request, err := json.Marshal(map[string]any{"placement": map[string]string{"preferred": wanted}})
	if err != nil {
		return "", fmt.Errorf("encoding a step-down: %w", err)
	}
	if _, err := js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, request); err != nil {
		return "", fmt.Errorf("asking for another leader: %w", err)
	}
	return "", errNotYet
}
