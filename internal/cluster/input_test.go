package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
	"logbroker/internal/stall"
)

// Answers that are no code of ours.
const (
	noResponders errcode.Code = -100 // NATS says that nobody listens
	denied       errcode.Code = -101 // NATS says that this client may not
	anyRefusal   errcode.Code = -102 // some code, but not success and not UNKNOWN_SERVER_ERROR
)

const (
	answerWithin   = 50 * time.Millisecond
	growthBytesMax = 16 << 20
	inputTopic     = "input"
	inputBatchMax  = 64 << 10
)

// inputRow is one bad input on one subject and what must come of it.
type inputRow struct {
	name    string
	subject string
	payload []byte
	header  nats.Header
	want    errcode.Code
}

// inputs makes the table for a topic with id, two partitions of which the first
// begins at offset 5 and ends at 10, in leader epoch epoch.
type inputs struct {
	t        *testing.T
	id       uint64
	epoch    int32
	leader   uint64
	follower uint64
	rows     []inputRow
}

func (in *inputs) add(want errcode.Code, subject, name string, payload []byte) {
	in.rows = append(in.rows, inputRow{name: name, subject: subject, payload: payload, want: want})
}

func (in *inputs) produce() {
	const subject = "lb.p.0." + inputTopic
	good := func() recordbatch.Batch { return batchOf(in.t, "a", "b") }
	changed := func(change func(recordbatch.Batch)) recordbatch.Batch {
		b := good()
		change(b)
		return recount(b)
	}
	numbered := func(id int64, epoch int16, sequence int32) recordbatch.Batch {
		b := good()
		b.SetProducer(id, epoch, sequence)
		return b
	}
	request := func(b ...recordbatch.Batch) []byte { return produceRequest(in.id, in.epoch, "", b...) }
	corrupt := good()
	corrupt[len(corrupt)-1] ^= 1
	large := batchOf(in.t, strings.Repeat("x", inputBatchMax))
	many := batchOf(in.t, slices.Repeat([]string{strings.Repeat("y", 1000)}, 100)...)
	lies := good()
	binary.BigEndian.PutUint32(lies[8:], 1<<31-1)
	for _, r := range []struct {
		want    errcode.Code
		name    string
		payload []byte
	}{
		{errcode.MessageTooLarge, "oversized record", request(large)},
		{errcode.MessageTooLarge, "oversized batch", request(many)},
		{errcode.UnsupportedCompression, "unknown codec", request(changed(func(b recordbatch.Batch) { b[22] |= 6 }))},
		{errcode.CorruptMessage, "corrupt CRC", request(corrupt)},
		{errcode.InvalidRecord, "count is not last offset delta + 1", request(changed(func(b recordbatch.Batch) { b[60] = 3 }))},
		{errcode.InvalidRecord, "count 0", request(changed(func(b recordbatch.Batch) { b[60], b[23], b[24], b[25], b[26] = 0, 255, 255, 255, 255 }))},
		{errcode.InvalidRecord, "count far above the bytes", request(changed(func(b recordbatch.Batch) {
			b[57], b[58], b[59], b[60] = 1, 0, 0, 0
			b[23], b[24], b[25], b[26] = 0, 255, 255, 255
		}))},
		{errcode.InvalidRequest, "trailing bytes", append(request(good()), 0, 0, 0)},
		{errcode.InvalidRequest, "two batches", request(good(), good())},
		{errcode.InvalidRecord, "control bit", request(changed(func(b recordbatch.Batch) { b[22] |= 1 << 5 }))},
		{errcode.InvalidRecord, "transactional bit", request(changed(func(b recordbatch.Batch) { b[22] |= 1 << 4 }))},
		{errcode.InvalidRecord, "log-append-time bit", request(changed(func(b recordbatch.Batch) { b[22] |= 1 << 3 }))},
		{errcode.UnsupportedMessageFormat, "magic 1", request(changed(func(b recordbatch.Batch) { b[16] = 1 }))},
		{errcode.CorruptMessage, "length lies", request(lies)},
		{errcode.CorruptMessage, "batch cut short", request(good()[:70])},
		{errcode.UnknownTopicID, "unknown topic id", produceRequest(in.id+77, in.epoch, "", good())},
		{errcode.FencedLeaderEpoch, "stale leader epoch", produceRequest(in.id, in.epoch-1, "", good())},
		{errcode.UnknownLeaderEpoch, "newer leader epoch", produceRequest(in.id, in.epoch+1, "", good())},
		{errcode.UnsupportedVersion, "unsupported version", append([]byte{9}, request(good())[1:]...)},
		{errcode.InvalidRequest, "message id longer than the request", append(bytes.Clone(request(good())[:14]), 255, 'x')},
		{errcode.InvalidProducerEpoch, "stale producer epoch", request(numbered(1<<40, 4, 0))},
		{errcode.OutOfOrderSequence, "sequence gap", request(numbered(1<<40, 5, 9))},
		{errcode.OutOfOrderSequence, "new producer epoch not at sequence 0", request(numbered(1<<40, 6, 2))},
		{errcode.UnknownProducerID, "unknown producer id not at sequence 0", request(numbered(1<<41, 0, 7))},
	} {
		in.add(r.want, subject, r.name, r.payload)
	}
	in.add(noResponders, "lb.p.7."+inputTopic, "unknown partition", request(good()))
	in.add(noResponders, "lb.p.-1."+inputTopic, "negative partition", request(good()))
	in.add(noResponders, "lb.p.0.nope", "unknown topic", request(good()))
}

func (in *inputs) fetch() {
	const subject = "lb.f.0." + inputTopic
	ask := func(change func(*protocol.FetchRequest)) []byte {
		r := protocol.FetchRequest{TopicID: in.id, Epoch: in.epoch, Offset: 5, MaxBytes: 1 << 20}
		change(&r)
		return r.Append(nil)
	}
	at := func(offset int64) []byte { return ask(func(r *protocol.FetchRequest) { r.Offset = offset }) }
	version := at(5)
	version[0] = 9
	for _, s := range []string{subject, protocol.FetchFromSubject(in.leader, inputTopic, 0), protocol.FetchFromSubject(in.follower, inputTopic, 0)} {
		in.add(errcode.UnknownTopicID, s, "unknown topic id", ask(func(r *protocol.FetchRequest) { r.TopicID += 77 }))
		in.add(errcode.OffsetOutOfRange, s, "below the log start", at(4))
		in.add(errcode.InvalidRequest, s, "negative offset", at(-1))
		in.add(errcode.UnsupportedVersion, s, "unsupported version", version)
		in.add(errcode.InvalidRequest, s, "cut short", version[:0:0])
	}
	in.add(errcode.OffsetOutOfRange, subject, "above the end", at(1<<40))
	in.add(errcode.OffsetNotAvailable, protocol.FetchFromSubject(in.follower, inputTopic, 0), "above the end of a follower", at(1<<40))
	in.add(errcode.NotLeaderOrFollower, subject, "newer leader epoch", ask(func(r *protocol.FetchRequest) { r.Epoch++ }))
	from := fmt.Sprintf("lb.fr.%d.", in.follower)
	in.add(errcode.UnknownTopicOrPartition, from+"7."+inputTopic, "unknown partition", at(5))
	in.add(errcode.UnknownTopicOrPartition, from+"0.nope", "unknown topic", at(5))
	in.add(errcode.InvalidRequest, from+"x."+inputTopic, "partition is no number", at(5))
	in.add(errcode.InvalidRequest, from+"-1."+inputTopic, "negative partition", at(5))
	in.add(errcode.InvalidRequest, from+"0", "no topic", at(5))
	in.add(noResponders, "lb.fr.99.0."+inputTopic, "unknown node", at(5))
	in.add(noResponders, "lb.f.7."+inputTopic, "unknown partition", at(5))
	in.add(noResponders, "lb.f.0.nope", "unknown topic", at(5))
}

func (in *inputs) offsets() {
	const subject = "lb.o.0." + inputTopic
	ask := func(r protocol.OffsetsRequest) []byte { return r.Append(nil) }
	good := protocol.OffsetsRequest{TopicID: in.id, Epoch: in.epoch, TimestampMs: protocol.TimestampLatest}
	in.add(errcode.UnknownTopicID, subject, "unknown topic id", ask(protocol.OffsetsRequest{TopicID: in.id + 77, Epoch: in.epoch}))
	in.add(errcode.InvalidRequest, subject, "timestamp -3", ask(protocol.OffsetsRequest{TopicID: in.id, Epoch: in.epoch, TimestampMs: -3}))
	in.add(errcode.NotLeaderOrFollower, subject, "newer leader epoch", ask(protocol.OffsetsRequest{TopicID: in.id, Epoch: in.epoch + 1, TimestampMs: -1}))
	in.add(errcode.UnsupportedVersion, subject, "unsupported version", append([]byte{9}, ask(good)[1:]...))
	in.add(noResponders, "lb.o.7."+inputTopic, "unknown partition", ask(good))
	in.add(noResponders, "lb.o.0.nope", "unknown topic", ask(good))
}

func (in *inputs) publish() {
	const subject = protocol.PrefixPublish + inputTopic
	in.add(errcode.UnknownTopicOrPartition, "lb.pub.nope", "unknown topic", []byte("v"))
	in.add(errcode.MessageTooLarge, subject, "oversized", make([]byte, inputBatchMax))
	for _, h := range []string{"Nats-Expected-Last-Sequence", "Nats-Expected-Stream", "Nats-Expected-Last-Msg-Id", "Nats-Expected-Last-Subject-Sequence"} {
		in.rows = append(in.rows, inputRow{name: h, subject: subject, payload: []byte("v"), header: nats.Header{h: {"1"}}, want: errcode.InvalidRequest})
	}
	in.rows = append(in.rows,
		inputRow{name: "long message id", subject: subject, header: nats.Header{"Nats-Msg-Id": {strings.Repeat("i", 256)}}, want: errcode.InvalidRequest},
		inputRow{name: "message id with NUL", subject: subject, header: nats.Header{"Nats-Msg-Id": {"\x00i"}}, want: errcode.InvalidRequest})
	for _, name := range []string{"$x", "a*b", "é", "a/b", strings.Repeat("n", 250)} {
		in.add(errcode.InvalidTopic, protocol.PrefixPublish+name, "topic name", []byte("v"))
	}
}

func (in *inputs) control() {
	for _, name := range []string{"", ".", "..", "a..b", ".a", "a.", "$x", "a b", "a*", ">", "é", "a/b", "a\\u0000", strings.Repeat("n", 250)} {
		in.add(errcode.InvalidTopic, "lb.a.topic_create", "topic name "+name, fmt.Appendf(nil, `{"version":1,"name":"%s"}`, name))
		in.add(errcode.InvalidTopic, "lb.a.topic_describe", "topic name "+name, fmt.Appendf(nil, `{"version":1,"name":"%s"}`, name))
	}
	for _, r := range []struct {
		want       errcode.Code
		verb, body string
	}{
		{errcode.TopicAlreadyExists, "a.topic_create", `{"name":"input","partitions":1}`},
		{errcode.InvalidPartitions, "a.topic_create", `{"name":"new","partitions":-1}`},
		{errcode.InvalidReplicationFactor, "a.topic_create", `{"name":"new","replicas":9}`},
		{errcode.InvalidConfig, "a.topic_create", `{"name":"new","config":{"retention_age":"soon"}}`},
		{errcode.InvalidConfig, "a.topic_create", `{"name":"new","config":{"colour":"red"}}`},
		{errcode.InvalidRequest, "a.topic_create", `{"name":["new"]}`},
		{errcode.UnsupportedVersion, "a.topic_create", `{"version":9,"name":"new"}`},
		{errcode.UnknownTopicOrPartition, "a.topic_describe", `{"name":"nope"}`},
		{errcode.UnknownTopicOrPartition, "a.topic_delete", `{"name":"nope"}`},
		{errcode.UnknownTopicOrPartition, "a.topic_alter", `{"name":"nope","config":{"retention_age":"1h"}}`},
		{errcode.InvalidRequest, "a.topic_alter", `{"name":"input"}`},
		{errcode.NotImplemented, "a.topic_alter", `{"name":"input","config":{"cleanup":"compact"}}`},
		{errcode.InvalidConfig, "a.topic_alter", `{"name":"input","config":{"cleanup":"burn"}}`},
		{errcode.InvalidPartitions, "a.topic_partitions", `{"name":"input","partitions":1}`},
		{errcode.UnknownTopicOrPartition, "a.topic_partitions", `{"name":"nope","partitions":4}`},
		{errcode.OffsetOutOfRange, "a.topic_trim", `{"name":"input","partition":0,"offset":99999}`},
		{errcode.InvalidRequest, "a.topic_trim", `{"name":"input","partition":0,"offset":-7}`},
		{errcode.UnknownTopicOrPartition, "a.topic_trim", `{"name":"input","partition":7,"offset":1}`},
		{errcode.UnknownTopicOrPartition, "a.transfer_leader", `{"topic":"input","partition":7,"to":1}`},
		{errcode.InvalidRequest, "a.transfer_leader", `{"topic":"input","partition":0,"to":99}`},
		{errcode.UnknownTopicOrPartition, "a.raft_show", `{"topic":"nope"}`},
		{errcode.InvalidRequest, "a.nonsense", `{}`},
		{errcode.InvalidRequest, "m.nonsense", `{}`},
		{errcode.UnsupportedVersion, "m.metadata", `{"version":9}`},
		{errcode.InvalidRequest, "m.metadata", `{"topics":7}`},
		{errcode.InvalidRequest, "g.join.workers", `{}`},
		{errcode.InvalidRequest, "g.heartbeat.workers", `not JSON`},
		{denied, "n.1.replicas", `{}`},
		{denied, "n.1.transfer", `{"shard":1001,"to":2}`},
		{denied, "i.leaders", `{"version":1,"node":1,"full":true,"leaders":[]}`},
	} {
		in.add(r.want, "lb."+r.verb, r.body, []byte(r.body))
	}
}

// garbage is bytes that mean nothing, of several sizes, on every subject.
func (in *inputs) garbage() {
	rng := rand.NewChaCha8([32]byte{7})
	for _, size := range []int{1, 14, 15, 48, 100, 4096, inputBatchMax, 1 << 20} {
		noise := make([]byte, size)
		if _, err := rng.Read(noise); err != nil {
			in.t.Fatal(err)
		}
		noise[0] = 0xfe // no version, no JSON
		name := fmt.Sprintf("%d bytes of garbage", size)
		for _, s := range []string{
			"p.0." + inputTopic, "f.0." + inputTopic, "o.0." + inputTopic, fmt.Sprintf("fr.%d.0.%s", in.follower, inputTopic), "pub.nope",
			"m.metadata", "m.producer_id", "m.x", "a.topic_create", "a.topic_describe", "a.topic_delete", "a.topic_alter", "a.topic_partitions",
			"a.topic_trim", "a.transfer_leader", "a.raft_show", "a.topic_list", "a.cluster_info", "a.cluster_health", "a.partitions", "a.balance_leaders", "g.join.x",
		} {
			in.add(anyRefusal, "lb."+s, name, noise)
		}
		in.add(denied, "lb.n.1.replicas", name, noise)
		in.add(denied, "lb.i.leaders", name, noise)
	}
}

func TestEveryBadInputIsRefusedByCodeSoonAndTheNextGoodRequestSucceeds(t *testing.T) {
	c := Start(t, Options{Configure: quietLeaders})
	topic := c.CreateTopic(inputTopic, 2, 3, map[string]string{"max_batch_bytes": strconv.Itoa(inputBatchMax), "segment_bytes": "1MiB"})
	leader := c.WaitLeader(inputTopic, 0)
	client := newHostile(t, c, leader, topic.ID)
	c.waitAnswered(client.nc, inputTopic, 0)
	for range 5 { // ten records, of which the first five are trimmed
		client.waitProduced(c, produceRequest(topic.ID, -1, "", batchOf(t, "a", "b")))
	}
	call(c, "trim", func(ctx context.Context) (*protocol.TopicTrimReply, error) {
		return c.Client().Admin().TrimTopic(ctx, inputTopic, 0, 5)
	})
	known := batchOf(t, "known producer")
	known.SetProducer(1<<40, 5, 0)
	client.waitProduced(c, produceRequest(topic.ID, -1, "", known))
	for _, id := range c.IDs() {
		c.WaitFor("every replica has trimmed", func() bool {
			r, err := fetchRaw(client.nc, protocol.FetchFromSubject(id, inputTopic, 0), protocol.FetchRequest{TopicID: topic.ID, Offset: 5, MaxBytes: 1}, time.Second)
			return err == nil && r.LogStart == 5
		})
	}
	// The table holds who leads in which epoch. After an election other refusals
	// are right, so it is made anew and tried from its start.
	const tries = 5
	for try := 1; ; try++ {
		before := c.leaderships(inputTopic)
		leader = c.WaitLeader(inputTopic, 0)
		in := &inputs{t: t, id: topic.ID, epoch: c.Describe(inputTopic).Partitions[0].Epoch, leader: leader, follower: leader%3 + 1}
		in.produce()
		in.fetch()
		in.offsets()
		in.publish()
		in.control()
		in.garbage()
		client.run(in.rows)
		if len(client.faults) == 0 {
			return
		}
		if after := c.leaderships(inputTopic); maps.Equal(before, after) || try == tries {
			t.Fatalf("terms %v, then %v:\n%s", before, after, strings.Join(client.faults, "\n"))
		}
		t.Logf("leaders changed on try %d: %s", try, client.faults[0])
	}
}

// leaderships returns the terms of the metadata and of a topic's partition 0, by
// shard: they grow with each election.
func (c *Cluster) leaderships(topic string) map[uint64]uint64 {
	c.tb.Helper()
	terms := map[uint64]uint64{}
	for _, name := range []string{"", topic} {
		c.WaitFor("all replicas tell their term", func() bool {
			show := call(c, "raft show", func(ctx context.Context) (*protocol.RaftShowReply, error) {
				return c.Client().Admin().ShowRaft(ctx, protocol.RaftShowRequest{Topic: name})
			})
			for _, r := range show.Replicas {
				if r.Term == nil {
					return false
				}
				terms[show.Shard] = max(terms[show.Shard], *r.Term)
			}
			return true
		})
	}
	return terms
}

// hostile sends bad inputs and checks what comes of them.
type hostile struct {
	t       *testing.T
	nc      *nats.Conn
	topicID uint64
	denied  chan error
	stalls  *stall.Meter
	took    []time.Duration
	faults  []string
}

func newHostile(t *testing.T, c *Cluster, node, topicID uint64) *hostile {
	h := &hostile{t: t, topicID: topicID, denied: make(chan error, 64), stalls: stall.Start(t)}
	h.nc = c.dial(node, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case h.denied <- err:
		default:
		}
	}))
	return h
}

// waitProduced returns when a good request has succeeded. It may be stored more
// than once.
func (h *hostile) waitProduced(c *Cluster, request []byte) {
	h.t.Helper()
	c.WaitFor("a good produce request succeeds", func() bool {
		r, err := produceRaw(h.nc, inputTopic, 0, request, waitTimeout)
		return err == nil && r.Code == errcode.None
	})
}

func (h *hostile) fault(format string, args ...any) {
	h.faults = append(h.faults, fmt.Sprintf(format, args...))
}

// good sends one good produce and one good fetch request.
func (h *hostile) good(request []byte, after string) bool {
	if r, err := produceRaw(h.nc, inputTopic, 0, request, waitTimeout); err != nil || r.Code != errcode.None {
		h.fault("%s: the next good produce request: %v, %v %s", after, err, r.Code, r.Message)
		return false
	}
	r, err := fetchRaw(h.nc, protocol.FetchSubject(inputTopic, 0), protocol.FetchRequest{TopicID: h.topicID, Epoch: -1, Offset: 5, MaxBytes: 1000}, waitTimeout)
	if err != nil || r.Code != errcode.None || len(r.Batches) == 0 {
		h.fault("%s: the next good fetch: %v, %v %s", after, err, r.Code, r.Message)
		return false
	}
	return true
}

// run tries all rows and notes the faults. It ends where a good request fails.
func (h *hostile) run(rows []inputRow) {
	h.faults, h.took = nil, nil
	good := produceRequest(h.topicID, -1, "", batchOf(h.t, "good"))
	if !h.good(good, "at the start") {
		return
	}
	debug.FreeOSMemory()
	before := residentBytes(h.t)
	for i := range rows {
		h.try(&rows[i])
		if !h.good(good, rows[i].subject+", "+rows[i].name) {
			return
		}
	}
	debug.FreeOSMemory()
	growth := residentBytes(h.t) - before
	slices.Sort(h.took)
	if len(h.took) == 0 {
		return
	}
	h.t.Logf("%d rows, answers after %v in the middle, %v at worst; %.1f MiB more resident memory",
		len(rows), h.took[len(h.took)/2].Round(time.Microsecond), h.took[len(h.took)-1].Round(time.Microsecond), float64(growth)/(1<<20))
	if growth > growthBytesMax && !raceEnabled {
		h.t.Errorf("resident memory grew by %d bytes; at most %d are allowed", growth, growthBytesMax)
	}
}

// try sends one bad input. What the machine stood still meanwhile does not count
// as time to the answer; what the meter missed of it is told from a slow answer
// by trying again.
func (h *hostile) try(r *inputRow) {
	bound := answerWithin
	if raceEnabled {
		bound *= 10
	}
	const tries = 5
	for n := 1; n <= tries; n++ {
		began := h.stalls.Mark()
		code, detail := h.send(r)
		took := h.stalls.Since(began)
		if code != r.want && (r.want != anyRefusal || code <= errcode.None) {
			h.fault("%s, %s: got %v (%s), want %v", r.subject, r.name, code, detail, r.want)
			return
		}
		if took <= bound {
			h.took = append(h.took, took)
			return
		}
		if n == tries {
			h.fault("%s, %s: answered after %v, want %v, and no sooner on %d tries", r.subject, r.name, took, bound, tries)
		}
	}
}

func (h *hostile) send(r *inputRow) (code errcode.Code, detail string) {
	if r.want == denied {
		return h.sendDenied(r)
	}
	m, err := h.nc.RequestMsg(&nats.Msg{Subject: r.subject, Data: r.payload, Header: r.header}, waitTimeout)
	if errors.Is(err, nats.ErrNoResponders) {
		return noResponders, err.Error()
	}
	if err != nil {
		return errcode.UnknownServerError, err.Error()
	}
	code, ok := codeOf(r.subject, m.Data)
	if !ok {
		return errcode.UnknownServerError, fmt.Sprintf("not an answer: %.80q", m.Data)
	}
	return code, fmt.Sprintf("%.200q", m.Data)
}

// sendDenied waits for the server's word that the subject is not the client's
// to publish to. The server answers no request of it.
func (h *hostile) sendDenied(r *inputRow) (errcode.Code, string) {
	if err := h.nc.PublishRequest(r.subject, h.nc.NewInbox(), r.payload); err != nil {
		return errcode.UnknownServerError, err.Error()
	}
	select {
	case err := <-h.denied:
		if errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), r.subject) {
			return denied, ""
		}
		return errcode.UnknownServerError, err.Error()
	case <-time.After(waitTimeout):
		return errcode.UnknownServerError, "the server said nothing"
	}
}

// residentBytes is the process's resident memory, 0 where it cannot be told.
func residentBytes(t *testing.T) int64 {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Logf("resident memory is not measured here: %v", err)
		return 0
	}
	fields := strings.Fields(string(raw))
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
