package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"logbroker/bench/load"
)

// kafkaSystem is a Kafka cluster that runs already. Topics are made at Start and
// deleted at Stop. CPU and disk of its brokers are not measured.
type kafkaSystem struct {
	broker string

	spec   load.Spec
	topics []string
}

// Name implements load.System.
func (s *kafkaSystem) Name() string { return "kafka" }

// Processes implements load.System: none is ours.
func (s *kafkaSystem) Processes() []int { return nil }

// Durability implements load.Durable.
func (s *kafkaSystem) Durability() string {
	return "acks=all: every in-sync replica has the record, synced to disk as the brokers are configured (Kafka's default: when the operating system does)"
}

// Settings implements load.System.
func (s *kafkaSystem) Settings() map[string]string {
	return map[string]string{
		"broker":      s.broker,
		"client":      "franz-go " + moduleVersion("github.com/twmb/franz-go"),
		"acks":        "all, idempotent producer",
		"topics":      strconv.Itoa(len(s.topics)),
		"partitions":  fmt.Sprintf("%d per topic", s.spec.Partitions),
		"replicas":    strconv.Itoa(s.spec.Replicas),
		"batch bytes": strconv.Itoa(s.spec.BatchBytes),
		"linger":      s.linger().String(),
		"compression": s.spec.Compression,
		"buffer":      fmt.Sprintf("%d bytes per producer", s.spec.BufferBytes),
	}
}

func (s *kafkaSystem) linger() time.Duration {
	return time.Duration(max(s.spec.LingerMs, 0) * float64(time.Millisecond))
}

// Start implements load.System.
func (s *kafkaSystem) Start(ctx context.Context, spec load.Spec) error {
	s.spec = spec
	client, err := s.client()
	if err != nil {
		return err
	}
	defer client.Close()
	run := time.Now().UnixNano()
	for i := range spec.Topics {
		s.topics = append(s.topics, fmt.Sprintf("bench-%d-%d", run, i))
	}
	request := kmsg.NewPtrCreateTopicsRequest()
	for _, name := range s.topics {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, int32(spec.Partitions), int16(spec.Replicas)
		request.Topics = append(request.Topics, topic)
	}
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("making topics on %s: %w; is Kafka running there?", s.broker, err)
	}
	for _, topic := range response.Topics {
		if err := kerr.ErrorForCode(topic.ErrorCode); err != nil {
			return fmt.Errorf("making topic %s: %w", topic.Topic, err)
		}
	}
	return eventually(ctx, func() error { return s.checkLeaders(ctx, client) })
}

// checkLeaders returns nil when every partition has a leader.
func (s *kafkaSystem) checkLeaders(ctx context.Context, client *kgo.Client) error {
	request := kmsg.NewPtrMetadataRequest()
	for _, name := range s.topics {
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = kmsg.StringPtr(name)
		request.Topics = append(request.Topics, topic)
	}
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("asking %s for its topics: %w", s.broker, err)
	}
	for _, topic := range response.Topics {
		if len(topic.Partitions) < s.spec.Partitions {
			return errors.New("a topic is not there yet")
		}
		for _, partition := range topic.Partitions {
			if err := kerr.ErrorForCode(partition.ErrorCode); err != nil || partition.Leader < 0 {
				return fmt.Errorf("partition %d has no leader: %w", partition.Partition, errors.Join(err, errNotYet))
			}
		}
	}
	return nil
}

// Stop implements load.System: it deletes the topics.
func (s *kafkaSystem) Stop() error {
	client, err := s.client()
	if err != nil || len(s.topics) == 0 {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	request := kmsg.NewPtrDeleteTopicsRequest()
	for _, name := range s.topics {
		topic := kmsg.NewDeleteTopicsRequestTopic()
		topic.Topic = kmsg.StringPtr(name)
		request.Topics, request.TopicNames = append(request.Topics, topic), append(request.TopicNames, name)
	}
	if _, err := request.RequestWith(ctx, client); err != nil {
		return fmt.Errorf("deleting the topics on %s: %w", s.broker, err)
	}
	return nil
}

func (s *kafkaSystem) client(options ...kgo.Opt) (*kgo.Client, error) {
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(s.broker)}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("making a Kafka client: %w", err)
	}
	return client, nil
}

// NewSender implements load.System.
func (s *kafkaSystem) NewSender(_ context.Context, _ int) (load.Sender, error) {
	codec, err := kafkaCodec(s.spec.Compression)
	if err != nil {
		return nil, err
	}
	client, err := s.client(
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchMaxBytes(int32(s.spec.BatchBytes)),
		kgo.ProducerLinger(s.linger()),
		kgo.ProducerBatchCompression(codec),
		kgo.MaxBufferedRecords(1<<30), // the bytes bound it
		kgo.MaxBufferedBytes(int(s.spec.BufferBytes)),
	)
	if err != nil {
		return nil, err
	}
	return &kafkaSender{client: client, topics: s.topics}, nil
}

func kafkaCodec(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "", "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.NoCompression(), fmt.Errorf("compression %q: use none, gzip, snappy, lz4 or zstd", name)
}

type kafkaSender struct {
	client *kgo.Client
	topics []string
}

// Send implements load.Sender.
func (s *kafkaSender) Send(ctx context.Context, r load.Record, done func(error)) {
	record := &kgo.Record{Topic: s.topics[r.Topic], Key: r.Key, Value: r.Value}
	s.client.Produce(ctx, record, func(_ *kgo.Record, err error) { done(err) })
}

// Flush implements load.Sender.
func (s *kafkaSender) Flush(ctx context.Context) error { return s.client.Flush(ctx) }

// Close implements load.Sender.
func (s *kafkaSender) Close() error {
	s.client.Close()
	return nil
}

// NewReceiver implements load.System.
func (s *kafkaSystem) NewReceiver(_ context.Context, n int, group bool) (load.Receiver, error) {
	options := []kgo.Opt{kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
	if group {
		options = append(options, kgo.ConsumeTopics(s.topics...), kgo.ConsumerGroup(s.topics[0]))
	} else {
		options = append(options, kgo.ConsumePartitions(s.share(n)))
	}
	client, err := s.client(options...)
	if err != nil {
		return nil, err
	}
	return &kafkaReceiver{client: client}, nil
}

// share is what consumer n reads, from the start.
func (s *kafkaSystem) share(n int) map[string]map[int32]kgo.Offset {
	share := make(map[string]map[int32]kgo.Offset)
	for i := n; i < len(s.topics)*s.spec.Partitions; i += s.spec.Consumers {
		name := s.topics[i/s.spec.Partitions]
		if share[name] == nil {
			share[name] = make(map[int32]kgo.Offset)
		}
		share[name][int32(i%s.spec.Partitions)] = kgo.NewOffset().AtStart()
	}
	return share
}

type kafkaReceiver struct{ client *kgo.Client }

// Receive implements load.Receiver.
func (r *kafkaReceiver) Receive(ctx context.Context, visit func([][]byte)) error {
	var values [][]byte
	for ctx.Err() == nil {
		fetches := r.client.PollFetches(ctx)
		if err := fetches.Err(); err != nil && ctx.Err() == nil {
			return fmt.Errorf("reading from Kafka: %w", err)
		}
		values = values[:0]
		fetches.EachRecord(func(record *kgo.Record) { values = append(values, record.Value) })
		if len(values) > 0 {
			visit(values)
		}
	}
	return nil
}

// Close implements load.Receiver.
func (r *kafkaReceiver) Close() error {
	r.client.Close()
	return nil
}
