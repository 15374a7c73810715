package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"logbroker/bench/load"
	"logbroker/internal/client"
	"logbroker/internal/protocol"
)

// The system's own options in load.Spec.Options.
const (
	optionServer    = "server"     // URLs of a running cluster, with commas
	optionTopic     = "topic"      // of that cluster; exists
	optionNodes     = "nodes"      // brokers to start
	optionInProcess = "in_process" // "true": all of them in one process
	optionBroker    = "broker"     // logbrokerd binary to start
	optionSet       = "set."       // prefix of configuration keys of the brokers
)

// system is logbroker as a load.System.
type system struct {
	spec     load.Spec
	cluster  *cluster // nil: not ours
	servers  []string
	client   *client.Client
	topics   []topic
	created  []string // to be deleted at the end
	group    string
	replicas int
	leaders  string // per node, as it was before the load
	settings map[string]string
}

// topic is one topic of the load.
type topic struct {
	name       string
	partitions int32
}

func newSystem() *system { return &system{} }

// Name returns "logbroker".
func (*system) Name() string { return "logbroker" }

// Durability says what an ack means; there is only this one.
func (*system) Durability() string {
	return "acked after fsync on a majority of the partition's replicas and apply"
}

// Replicas is how many each partition has.
func (s *system) Replicas() int { return s.replicas }

// Start starts or finds the cluster and makes the topics.
func (s *system) Start(ctx context.Context, spec load.Spec) error {
	s.spec, s.settings = spec, map[string]string{}
	if urls := spec.Options[optionServer]; urls != "" {
		s.servers = strings.Split(urls, ",")
		s.settings["server"] = urls
	} else {
		c, err := startCluster(ctx, spec)
		if err != nil {
			return err
		}
		s.cluster, s.servers = c, c.servers
		maps.Copy(s.settings, c.settings)
	}
	var err error
	if s.client, err = client.Dial(ctx, s.servers, client.Options{}); err != nil {
		return err
	}
	info, err := s.client.Admin().ClusterInfo(ctx)
	if err != nil {
		return err
	}
	s.settings["version"], s.settings["nodes"] = info.Version, strconv.Itoa(len(info.Nodes))
	id := strconv.FormatInt(time.Now().UnixMilli(), 36)
	s.group = "bench-" + id
	if name := spec.Options[optionTopic]; name != "" {
		err = s.useTopic(ctx, name)
	} else {
		err = s.createTopics(ctx, "bench-"+id)
	}
	if err != nil {
		return err
	}
	return s.awaitLeaders(ctx)
}

func (s *system) useTopic(ctx context.Context, name string) error {
	d, err := s.client.Admin().DescribeTopic(ctx, name)
	if err != nil {
		return err
	}
	s.topics = []topic{{name, int32(len(d.Partitions))}}
	s.replicas = d.Replicas
	return nil
}

func (s *system) createTopics(ctx context.Context, prefix string) error {
	for n := range s.spec.Topics {
		name := prefix + "-" + strconv.Itoa(n)
		d, err := s.client.Admin().CreateTopic(ctx, protocol.TopicCreateRequest{
			Name: name, Partitions: int32(s.spec.Partitions), Replicas: s.spec.Replicas,
		})
		if err != nil {
			return fmt.Errorf("making topic %s: %w", name, err)
		}
		s.created = append(s.created, name)
		s.topics = append(s.topics, topic{name, int32(s.spec.Partitions)})
		s.replicas = d.Replicas
	}
	return nil
}

// spreadTimeout is how long leadership may take to be spread over brokers that
// were started just now. Longer is no error: the settings say how it is.
const spreadTimeout = 30 * time.Second

// awaitLeaders returns when every partition has a leader and, on a cluster of
// our own, the leaders are spread evenly.
func (s *system) awaitLeaders(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, spreadTimeout)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		led, missing, err := s.countLeaders(ctx)
		if err != nil {
			return err
		}
		counts := slices.Sorted(maps.Values(led))
		s.leaders = strings.Trim(strings.ReplaceAll(fmt.Sprint(counts), " ", "/"), "[]")
		if missing == 0 && (s.cluster == nil || s.even(counts)) {
			return nil
		}
		select {
		case <-ctx.Done():
			if missing == 0 {
				return nil
			}
			return fmt.Errorf("%d partitions have no leader after %s; see logbroker cluster health", missing, spreadTimeout)
		case <-ticker.C:
		}
	}
}

// even reports whether every node of our own cluster that can lead does, and
// none leads two more than another.
func (s *system) even(counts []int) bool {
	partitions := s.spec.Topics * s.spec.Partitions
	return len(counts) == min(s.cluster.nodes, partitions) && counts[len(counts)-1]-counts[0] <= 1
}

func (s *system) countLeaders(ctx context.Context) (led map[uint64]int, missing int, err error) {
	led = map[uint64]int{}
	for _, t := range s.topics {
		d, err := s.client.Admin().DescribeTopic(ctx, t.name)
		if err != nil {
			return nil, 0, err
		}
		for _, p := range d.Partitions {
			if p.Leader == nil {
				missing++
				continue
			}
			led[*p.Leader]++
		}
	}
	return led, missing, nil
}

// Settings says everything that matters for the figures.
func (s *system) Settings() map[string]string {
	linger := "adaptive"
	if s.spec.LingerMs >= 0 {
		linger = strconv.FormatFloat(s.spec.LingerMs, 'g', -1, 64) + "ms"
	}
	all := maps.Clone(s.settings)
	for i, t := range s.topics {
		all["topic_"+strconv.Itoa(i)] = fmt.Sprintf("%s, %d partitions", t.name, t.partitions)
	}
	maps.Copy(all, map[string]string{
		"replicas":      strconv.Itoa(s.replicas),
		"leaders":       s.leaders,
		"acks":          s.Durability(),
		"compression":   s.spec.Compression,
		"batch_bytes":   strconv.Itoa(s.spec.BatchBytes),
		"linger":        linger,
		"max_in_flight": strconv.Itoa(s.spec.MaxInFlight),
		"buffer_bytes":  strconv.FormatInt(s.spec.BufferBytes, 10),
		"producer":      "SendAsync of package producer, idempotent",
		"consumer":      "a Reader of package consumer per partition; in a group a Consumer with Poll and Mark",
	})
	return all
}

// Processes are the brokers that Start started.
func (s *system) Processes() []int {
	if s.cluster == nil {
		return nil
	}
	return s.cluster.pids
}

// Stored is how many records the topics hold.
func (s *system) Stored(ctx context.Context) (int64, error) {
	sum := int64(0)
	for _, t := range s.topics {
		for p := range t.partitions {
			from, err := s.client.Offsets(ctx, t.name, p, protocol.TimestampEarliest)
			if err != nil {
				return 0, err
			}
			to, err := s.client.Offsets(ctx, t.name, p, protocol.TimestampLatest)
			if err != nil {
				return 0, err
			}
			sum += to.Offset - from.Offset
		}
	}
	return sum, nil
}

// deleteTimeout bounds the clearing up on a cluster that is not ours.
const deleteTimeout = 10 * time.Second

// Stop deletes the topics from a cluster that goes on, and ends one of our own.
func (s *system) Stop() error {
	var errs []error
	if s.client != nil {
		if s.cluster == nil {
			errs = append(errs, s.deleteTopics())
		}
		s.client.Close()
	}
	if s.cluster != nil {
		errs = append(errs, s.cluster.stop())
	}
	return errors.Join(errs...)
}

func (s *system) deleteTopics() error {
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	var errs []error
	for _, name := range s.created {
		if err := s.client.Admin().DeleteTopic(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("topic %s is left behind: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
