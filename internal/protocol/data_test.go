package protocol

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"logbroker/internal/errcode"
)

var update = flag.Bool("update", false, "write the golden vectors anew")

// messages are one of each data-plane message with every field set.
func messages() map[string]struct {
	encoded []byte
	want    any
	decode  func([]byte) (any, error)
} {
	type message = struct {
		encoded []byte
		want    any
		decode  func([]byte) (any, error)
	}
	produce := ProduceRequest{TopicID: 7, Epoch: 3, MsgID: "id-1", BatchAt: 19}
	produceReply := ProduceReply{Code: errcode.NotLeaderOrFollower, Duplicate: true, RetryAfterMs: 20, TopicID: 7, Epoch: 3, Leader: 2, BaseOffset: -1, AppendTimeMs: 1767362645000, Message: "node 2 leads"}
	fetch := FetchRequest{TopicID: 7, Epoch: EpochUnknown, Offset: 1 << 40, MaxBytes: 4 << 20, MaxWaitMs: 500}
	pieces := FetchRequest{TopicID: 7, Epoch: 3, Offset: 1 << 40, MaxBytes: 4 << 20, MaxWaitMs: 500, Pieces: true}
	piece := FetchReply{More: true, Piece: 2, TopicID: 7, Epoch: 3, Leader: 1, HighWatermark: 99, LogStart: 5, Batches: []byte("batches")}
	fetchReply := FetchReply{Last: true, TopicID: 7, Epoch: 3, Leader: 1, HighWatermark: 99, LogStart: 5, Batches: []byte("batches")}
	offsets := OffsetsRequest{TopicID: 7, Epoch: 3, TimestampMs: TimestampLatest}
	offsetsReply := OffsetsReply{TopicID: 7, Epoch: 3, Leader: 1, Offset: 42, TimestampMs: 1767362645000}
	return map[string]message{
		"produce-request":      {append(produce.AppendHeader(nil), "batch"...), produce, func(b []byte) (any, error) { return DecodeProduceRequest(b) }},
		"produce-reply":        {produceReply.Append(nil), produceReply, func(b []byte) (any, error) { return DecodeProduceReply(b) }},
		"fetch-request":        {fetch.Append(nil), fetch, func(b []byte) (any, error) { return DecodeFetchRequest(b) }},
		"fetch-request-pieces": {pieces.Append(nil), pieces, func(b []byte) (any, error) { return DecodeFetchRequest(b) }},
		"fetch-reply-piece": {
			append(piece.AppendHeader(nil, len(piece.Batches)), piece.Batches...), piece,
			func(b []byte) (any, error) { return DecodeFetchReply(b) },
		},
		"fetch-reply": {
			append(fetchReply.AppendHeader(nil, len(fetchReply.Batches)), fetchReply.Batches...), fetchReply,
			func(b []byte) (any, error) { return DecodeFetchReply(b) },
		},
		"offsets-request": {offsets.Append(nil), offsets, func(b []byte) (any, error) { return DecodeOffsetsRequest(b) }},
		"offsets-reply":   {offsetsReply.Append(nil), offsetsReply, func(b []byte) (any, error) { return DecodeOffsetsReply(b) }},
	}
}

func TestMessagesHaveTheirGoldenBytesAndDecodeBack(t *testing.T) {
	for name, m := range messages() {
		file := filepath.Join("testdata/vectors", name+".hex")
		if *update {
			if err := os.WriteFile(file, []byte(hex.EncodeToString(m.encoded)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		golden, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil || !bytes.Equal(golden, m.encoded) {
			t.Errorf("%s: encoded %x, golden %x (%v)", name, m.encoded, golden, err)
		}
		if got, err := m.decode(golden); err != nil || !reflect.DeepEqual(got, m.want) {
			t.Errorf("%s: decoded %+v, %v", name, got, err)
		}
	}
}

func TestHeadersHaveTheirDocumentedSizes(t *testing.T) {
	sizes := map[string]int{
		"produce-request": ProduceRequestHeaderSize + len("id-1") + len("batch"), "produce-reply": ProduceReplySize + len("node 2 leads"),
		"fetch-request": FetchRequestSize, "fetch-reply": FetchReplyHeaderSize + len("batches"),
		"fetch-request-pieces": FetchRequestSize, "fetch-reply-piece": FetchReplyHeaderSize + len("batches"),
		"offsets-request": OffsetsRequestSize, "offsets-reply": OffsetsReplySize,
	}
	for name, m := range messages() {
		if len(m.encoded) != sizes[name] {
			t.Errorf("%s has %d bytes, documented are %d", name, len(m.encoded), sizes[name])
		}
	}
}

func TestEveryShortenedMessageIsRefusedWithACode(t *testing.T) {
	for name, m := range messages() {
		need := len(m.encoded)
		if name == "produce-request" {
			need -= len("batch") // how long the batch is, is the batch's own affair
		}
		for n := range need {
			if _, err := m.decode(m.encoded[:n]); errcode.Of(err) != errcode.InvalidRequest {
				t.Errorf("%s cut to %d bytes: %v", name, n, err)
			}
		}
		newer := bytes.Clone(m.encoded)
		newer[0] = Version + 1
		if _, err := m.decode(newer); errcode.Of(err) != errcode.UnsupportedVersion {
			t.Errorf("%s of a newer version: %v", name, err)
		}
	}
}

func TestTopicNamesFollowTheRule(t *testing.T) {
	for _, name := range []string{"a", "orders", "a.b.c", "A-Z_0-9", strings.Repeat("x", TopicNameBytesMax)} {
		if err := ValidateTopicName(name); err != nil {
			t.Errorf("%q refused: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a..b", ".a", "a.", "$SYS", "a b", "a*", "a>", "a/b", "ä", "a\n", "a\x00", strings.Repeat("x", TopicNameBytesMax+1)} {
		if err := ValidateTopicName(name); errcode.Of(err) != errcode.InvalidTopic {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestSubjectsEndInTheTopic(t *testing.T) {
	for got, want := range map[string]string{
		ProduceSubject("a.b", 3): "lb.p.3.a.b", FetchSubject("t", 0): "lb.f.0.t", FetchFromSubject(2, "t", 1): "lb.fr.2.1.t",
		OffsetsSubject("t", 9): "lb.o.9.t", NodeSubject(4, VerbNodeTransfer): "lb.n.4.transfer",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestAControlErrorKeepsItsCode(t *testing.T) {
	if NewControlError(nil) != nil || (*ControlError)(nil).Err() != nil {
		t.Fatal("no error became one")
	}
	e := NewControlError(errcode.New(errcode.Throttled, "slow down"))
	if !e.Retriable || e.Name != "THROTTLED" || errcode.Of(e.Err()) != errcode.Throttled {
		t.Fatalf("%+v", e)
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range messages() {
		f.Add(m.encoded)
	}
	f.Add([]byte{Version})
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, m := range messages() {
			if _, err := m.decode(b); err != nil && errcode.Of(err) == errcode.UnknownServerError {
				t.Errorf("%s: an error without a code: %v", name, err)
			}
		}
	})
}
