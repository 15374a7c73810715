package raftnode

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"logbroker/internal/errcode"
)

func newEndpoint(t *testing.T, o EndpointOptions) *Endpoint {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	e, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestListenNamesABusyPortInOneLine(t *testing.T) {
	e := newEndpoint(t, EndpointOptions{})
	_, err := Listen(EndpointOptions{Listen: e.Addr()})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), e.Addr()) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got %v", err)
	}
	for _, bad := range []string{"127.0.0.1:notaport", "203.0.113.7:0"} {
		if _, err := Listen(EndpointOptions{Listen: bad}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("error for %s: %v", bad, err)
		}
	}
}

func TestAdvertisedAddressCarriesTheRealPort(t *testing.T) {
	e := newEndpoint(t, EndpointOptions{Advertise: "broker-1.example:0"})
	_, port, _ := net.SplitHostPort(e.listener.Addr().String())
	if want := "broker-1.example:" + port; e.Addr() != want {
		t.Fatalf("address %s, want %s", e.Addr(), want)
	}
	if _, err := advertised("", &net.TCPAddr{IP: net.IPv4zero, Port: 7}); err == nil {
		t.Fatal("an unspecified address was advertised")
	}
}

func TestHandshakeCarriesReplyAndCode(t *testing.T) {
	server, client := newEndpoint(t, EndpointOptions{}), newEndpoint(t, EndpointOptions{})
	ctx := background(t)
	if _, err := client.Handshake(ctx, server.Addr(), nil); errcode.Of(err) != errcode.LeaderNotAvailable {
		t.Fatalf("without a handler: %v", err)
	}
	server.HandleHandshake(func(_ context.Context, request []byte) ([]byte, error) {
		if string(request) == "no" {
			return nil, errcode.New(errcode.InvalidRequest, "not you")
		}
		return append([]byte("re:"), request...), nil
	})
	for _, request := range [][]byte{nil, []byte("hello"), bytes.Repeat([]byte("x"), HandshakeBytesMax-3)} {
		reply, err := client.Handshake(ctx, server.Addr(), request)
		if err != nil || string(reply) != "re:"+string(request) {
			t.Fatalf("reply of %d bytes, error %v", len(reply), err)
		}
	}
	_, err := client.Handshake(ctx, server.Addr(), []byte("no"))
	if errcode.Of(err) != errcode.InvalidRequest || !strings.Contains(err.Error(), "not you") {
		t.Fatalf("refusal: %v", err)
	}
	if _, err := client.Handshake(ctx, server.Addr(), make([]byte, HandshakeBytesMax+1)); err == nil {
		t.Fatal("a request above the limit was sent")
	}
	if _, err := client.Handshake(ctx, server.Addr(), make([]byte, HandshakeBytesMax)); errcode.Of(err) != errcode.UnknownServerError {
		t.Fatalf("a reply above the limit: %v", err)
	}
}

func TestHandshakeEndsWithItsContext(t *testing.T) {
	server, client := newEndpoint(t, EndpointOptions{}), newEndpoint(t, EndpointOptions{})
	entered := make(chan struct{})
	server.HandleHandshake(func(ctx context.Context, _ []byte) ([]byte, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-entered; cancel() }()
	if _, err := client.Handshake(ctx, server.Addr(), nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

// servedRaft puts a transport on e that counts what gets through.
type servedRaft struct {
	mu      sync.Mutex
	batches int
	chunks  int
}

func serveRaft(t *testing.T, e *Endpoint) *servedRaft {
	t.Helper()
	s := new(servedRaft)
	transport := &tcpTransport{
		endpoint:   e,
		deployment: 77,
		resolve:    func(incarnation string) (string, bool) { return "x", incarnation == testIncarnation(1) },
		messages:   func(pb.MessageBatch) { s.mu.Lock(); s.batches++; s.mu.Unlock() },
		chunks:     func(c pb.Chunk) bool { s.mu.Lock(); s.chunks++; s.mu.Unlock(); return c.ChunkId < 3 },
		inbound:    make(map[net.Conn]struct{}),
	}
	transport.closing, transport.cancel = context.WithCancel(context.Background())
	if err := transport.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = transport.Close() })
	return s
}

func goodBatch() pb.MessageBatch {
	return pb.MessageBatch{
		DeploymentId: 77, BinVer: raftio.TransportBinVersion, SourceAddress: testIncarnation(1),
		Requests: []pb.Message{{Type: pb.Heartbeat, From: 1, To: 2, ShardID: 3, Term: 4}},
	}
}

func frameOf(body []byte) []byte {
	frame := append(make([]byte, frameHeaderBytes), body...)
	sealFrame(frame)
	return frame
}

func batchFrame(change func(*pb.MessageBatch)) []byte {
	batch := goodBatch()
	change(&batch)
	body := pb.MustMarshal(&batch)
	head := binary.LittleEndian.AppendUint32(make([]byte, 4), uint32(len(body)))
	return frameOf(append(head, body...))
}

// sendRaw writes data to the port and reports whether the peer closed.
func sendRaw(t *testing.T, address string, data []byte) (closed bool) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(data); err != nil {
		return true
	}
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	_, err = io.Copy(io.Discard, conn)
	var timeout net.Error
	return !errors.As(err, &timeout) || !timeout.Timeout()
}

func TestHostileBytesCloseTheConnection(t *testing.T) {
	e := newEndpoint(t, EndpointOptions{Logger: testLogger()})
	served := serveRaft(t, e)
	messages := append([]byte(preamble), kindMessages)
	garbage := make([]byte, 4096)
	for i := range garbage {
		garbage[i] = byte(mathrand.Uint32())
	}
	garbage[0] = 'x'
	badCRC := batchFrame(func(*pb.MessageBatch) {})
	badCRC[len(badCRC)-1] ^= 1
	long := make([]byte, frameHeaderBytes)
	binary.LittleEndian.PutUint32(long, messageFrameBytesMax+1)
	cases := map[string][]byte{
		"garbage":        garbage,
		"http":           []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"unknown kind":   append([]byte(preamble), 'z'),
		"old version":    []byte("lbraft\x00m"),
		"bad checksum":   append(messages[:8:8], badCRC...),
		"length":         append(messages[:8:8], long...),
		"no protobuf":    append(messages[:8:8], frameOf(garbage)...),
		"empty body":     append(messages[:8:8], frameOf(nil)...),
		"deployment":     append(messages[:8:8], batchFrame(func(b *pb.MessageBatch) { b.DeploymentId = 1 })...),
		"version":        append(messages[:8:8], batchFrame(func(b *pb.MessageBatch) { b.BinVer = 1 })...),
		"unknown sender": append(messages[:8:8], batchFrame(func(b *pb.MessageBatch) { b.SourceAddress = "evil" })...),
		"no addressee":   append(messages[:8:8], batchFrame(func(b *pb.MessageBatch) { b.Requests[0].To = 0 })...),
		"local event":    append(messages[:8:8], batchFrame(func(b *pb.MessageBatch) { b.Requests[0].Type = pb.InstallSnapshot })...),
		"unknown type":   append(messages[:8:8], batchFrame(func(b *pb.MessageBatch) { b.Requests[0].Type = 99 })...),
		"snapshot": append(append([]byte(preamble), kindSnapshot), frameOf(pb.MustMarshal(&pb.Chunk{
			DeploymentId: 77, ChunkId: 1,
		}))...),
		"refused chunk": append(append([]byte(preamble), kindSnapshot), frameOf(pb.MustMarshal(&pb.Chunk{
			DeploymentId: 77, ShardID: 1, ReplicaID: 1, From: 1, ChunkId: 3,
		}))...),
	}
	for name, data := range cases {
		if !sendRaw(t, e.Addr(), data) {
			t.Errorf("%s: connection stays open", name)
		}
	}
	served.mu.Lock()
	batches := served.batches
	served.mu.Unlock()
	if batches != 0 {
		t.Errorf("%d hostile batches reached dragonboat", batches)
	}
	conn, err := net.Dial("tcp", e.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(append(messages, batchFrame(func(*pb.MessageBatch) {})...)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a good batch to be served still", func() bool {
		served.mu.Lock()
		defer served.mu.Unlock()
		return served.batches == 1
	})
}

// Every one of a hundred connections claims a frame of 136 MiB and sends a byte.
func TestClaimedLengthAllocatesNextToNothing(t *testing.T) {
	e := newEndpoint(t, EndpointOptions{})
	serveRaft(t, e)
	claim := append([]byte(preamble), kindMessages)
	claim = binary.LittleEndian.AppendUint32(claim, messageFrameBytesMax)
	claim = append(claim, 0, 0, 0, 0, 'x')
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const connections = 100
	for range connections {
		conn, err := net.Dial("tcp", e.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(claim); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "connections to be adopted", func() bool {
		e.mu.Lock()
		transport := e.raft
		e.mu.Unlock()
		transport.mu.Lock()
		defer transport.mu.Unlock()
		return len(transport.inbound) == connections
	})
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<20 {
		t.Fatalf("heap grew by %d MiB", grown>>20)
	}
}

func TestFramesOfEverySizeSurvive(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	sizes := []int{0, 1, 7, 4096, 32 << 10, firstReadBytes - 1, firstReadBytes, firstReadBytes + 1, 3 << 20, 10, 5<<20 + 3}
	go func() {
		for _, size := range sizes {
			body := make([]byte, size)
			for i := range body {
				body[i] = byte(i * 7)
			}
			if writeFrame(client, frameOf(body)) != nil {
				return
			}
		}
	}()
	frames := newFrameReader(server, 8<<20)
	for _, size := range sizes {
		body, err := frames.next()
		if err != nil || len(body) != size {
			t.Fatalf("frame of %d bytes: %d bytes, %v", size, len(body), err)
		}
		for i := range body {
			if body[i] != byte(i*7) {
				t.Fatalf("frame of %d bytes differs at %d", size, i)
			}
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(frameOf([]byte("body")))
	f.Add(batchFrame(func(*pb.MessageBatch) {}))
	f.Add([]byte{255, 255, 255, 255, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		client, server := net.Pipe()
		go func() { _, _ = client.Write(data); _ = client.Close() }()
		defer server.Close()
		frames := newFrameReader(server, 1<<20)
		for {
			body, err := frames.next()
			if err != nil {
				return
			}
			var batch pb.MessageBatch
			_ = unmarshal(&batch, body)
			var chunk pb.Chunk
			_ = unmarshal(&chunk, body)
		}
	})
}

// testCertificates makes a CA and one certificate for 127.0.0.1.
func testCertificates(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	caKey, ca := testCertificate(t, nil, nil, nil)
	key, leaf := testCertificate(t, ca, caKey, []net.IP{net.IPv4(127, 0, 0, 1)})
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	pair := []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}
	server = &tls.Config{Certificates: pair, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}
	client = &tls.Config{Certificates: pair, RootCAs: pool, MinVersion: tls.VersionTLS13}
	return server, client
}

func testCertificate(t *testing.T, parent *x509.Certificate, parentKey *ecdsa.PrivateKey, ips []net.IP) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "raft"}, IPAddresses: ips,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        parent == nil, BasicConstraintsValid: true,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, certificate
}

func TestMutualTLSCarriesRaftSnapshotsAndHandshakes(t *testing.T) {
	server, client := testCertificates(t)
	c := newCluster(t, 3, func(_ *testNode, o *EndpointOptions) { o.ServerTLS, o.ClientTLS = server, client })
	leader := c.found(testShard)
	down := c.followers(leader)[0]
	down.node.Close()
	down.node = nil
	for range 10 {
		c.must(testShard, strings.Repeat("x", 100))
	}
	for _, n := range c.nodes {
		if n.node != nil {
			if err := n.node.Snapshot(background(t), testShard, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.open(down)
	c.start(down, Shard{ID: testShard})
	c.settled(testShard, 10)

	leader.endpoint.HandleHandshake(func(context.Context, []byte) ([]byte, error) { return []byte("ok"), nil })
	if reply, err := down.endpoint.Handshake(background(t), leader.endpoint.Addr(), nil); err != nil || string(reply) != "ok" {
		t.Fatalf("handshake over TLS: %q, %v", reply, err)
	}
	plain := newEndpoint(t, EndpointOptions{})
	if _, err := plain.Handshake(background(t), leader.endpoint.Addr(), nil); err == nil {
		t.Fatal("a handshake without TLS was answered")
	}
	stranger := client.Clone()
	stranger.Certificates = nil
	nameless := newEndpoint(t, EndpointOptions{ServerTLS: server, ClientTLS: stranger})
	if _, err := nameless.Handshake(background(t), leader.endpoint.Addr(), nil); err == nil {
		t.Fatal("a handshake without a client certificate was answered")
	}
}
