package natsapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/broker/handler"
	"logbroker/internal/errcode"
	"logbroker/internal/protocol"
)

func TestBusyPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, o := range []Options{
		{ClientListen: l.Addr().String()},
		{ClientListen: "127.0.0.1:0", RouteListen: l.Addr().String()},
	} {
		o.NodeID, o.ClusterName = 1, "test"
		err := New(o).Start(&fakeCore{})
		if err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
			t.Errorf("error %v does not name %s", err, l.Addr())
		}
	}
}

func TestBadAddressesAreRefused(t *testing.T) {
	for _, o := range []Options{
		{ClientListen: "4222"},
		{ClientListen: "127.0.0.1:x"},
		{ClientListen: "127.0.0.1:0", RouteListen: "nope"},
		{ClientListen: "127.0.0.1:0", RouteListen: "127.0.0.1:0", Routes: []string{"nope"}},
	} {
		o.NodeID, o.ClusterName = 1, "test"
		s := New(o)
		if err := s.Start(&fakeCore{}); err == nil {
			s.Close()
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestAdvertiseHostStandsForAWildcard(t *testing.T) {
	for listen, want := range map[string]string{"0.0.0.0": "broker-1.example", "127.0.0.1": "127.0.0.1"} {
		s := New(Options{NodeID: 1, ClusterName: "test", ClientListen: listen + ":0", AdvertiseHost: "broker-1.example"})
		addr, err := net.ResolveTCPAddr("tcp", listen+":4222")
		if err != nil {
			t.Fatal(err)
		}
		if got := s.advertised(addr); got != want+":4222" {
			t.Errorf("%s is advertised as %s", listen, got)
		}
		o, err := s.serverOptions()
		if err != nil || o.ClientAdvertise != "" {
			t.Errorf("a port not known yet is advertised: %q %v", o.ClientAdvertise, err)
		}
	}
	s := New(Options{NodeID: 1, ClusterName: "test", ClientListen: "0.0.0.0:4222", RouteListen: ":6222", AdvertiseHost: "b"})
	if o, err := s.serverOptions(); err != nil || o.ClientAdvertise != "b:4222" || o.Cluster.Advertise != "b:6222" {
		t.Errorf("%q %q %v", o.ClientAdvertise, o.Cluster.Advertise, err)
	}
}

func TestTLSForClientsAndRoutes(t *testing.T) {
	config := selfSigned(t)
	core := &fakeCore{}
	withTLS := func(o *Options) { o.ClientTLS, o.RouteTLS = config, config }
	a := startServer(t, core, withTLS)
	b := startServer(t, &fakeCore{}, withTLS, func(o *Options) { o.NodeID, o.Routes = 2, []string{a.RouteAddr()} })
	eventually(t, "TLS route", func() bool { return b.Routes() == 1 })
	if _, err := nats.Connect(a.ClientURL()); err == nil {
		t.Error("a client that does not trust the certificate got in")
	}
	c := connect(t, a, nats.Secure(&tls.Config{RootCAs: config.RootCAs}))
	if _, err := c.Request("lb.m.metadata", nil, time.Second); err != nil {
		t.Fatal(err)
	}
}

func TestClientCertificateIsDemanded(t *testing.T) {
	config := selfSigned(t)
	config.ClientAuth = tls.RequireAndVerifyClientCert
	s := startServer(t, &fakeCore{}, func(o *Options) { o.ClientTLS = config })
	if _, err := nats.Connect(s.ClientURL(), nats.Secure(&tls.Config{RootCAs: config.RootCAs})); err == nil {
		t.Error("a client without certificate got in")
	}
	connect(t, s, nats.Secure(&tls.Config{RootCAs: config.RootCAs, Certificates: config.Certificates}))
}

// selfSigned returns a TLS configuration that trusts only itself.
func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: pool, ClientCAs: pool}
}

func TestSetRoutesConnectsNodes(t *testing.T) {
	core := &fakeCore{}
	a := startServer(t, core)
	b := startServer(t, &fakeCore{}, func(o *Options) { o.NodeID = 2 })
	c := connect(t, b)
	if err := a.SetRoutes([]string{a.RouteAddr(), b.RouteAddr()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a route", func() bool { return a.Routes() == 1 && b.Routes() == 1 })
	lead(t, a, "orders", 0)
	eventually(t, "an answer through the route", func() bool {
		_, err := c.Request(produceSubject(0), []byte("x"), time.Second)
		return err == nil
	})
	if c.Reconnects != 0 {
		t.Error("changing the routes disturbed a client")
	}
	if got := b.ClientConnections(); got != 1 {
		t.Errorf("client connections %d, want 1", got)
	}
}

func TestPeersCall(t *testing.T) {
	answer := func(p handler.Plane, verb string, body []byte, done func([]byte)) {
		if p != handler.PlaneNode || verb != protocol.VerbNodeReplicas {
			done([]byte(`{"version":1,"error":{"code":42,"message":"no such verb"}}`))
			return
		}
		done([]byte(`{"version":1,"body":{"node":2,"replicas":[{"shard":1001}]}}`))
	}
	servers, _ := serveCluster(t, 2, func(cores []*fakeCore) { cores[1].control = answer })
	eventually(t, "node 2 answers node 1", func() bool {
		var reply protocol.ReplicasReply
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := servers[0].Call(ctx, 2, protocol.VerbNodeReplicas, protocol.ReplicasRequest{}, &reply)
		return err == nil && reply.Node == 2 && len(reply.Replicas) == 1
	})
	for node, want := range map[uint64]errcode.Code{2: errcode.InvalidRequest, 9: errcode.LeaderNotAvailable} {
		if err := servers[0].Call(t.Context(), node, "nonsense", protocol.Empty{}, &protocol.Empty{}); errcode.Of(err) != want {
			t.Errorf("node %d: %v, want %v", node, err, want)
		}
	}
}

func TestPeerThatDoesNotAnswerIsATimeOut(t *testing.T) {
	servers, _ := serveCluster(t, 2, func(cores []*fakeCore) {
		cores[1].control = func(handler.Plane, string, []byte, func([]byte)) {}
	})
	eventually(t, "a time-out", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		err := servers[0].Call(ctx, 2, protocol.VerbNodeReplicas, protocol.ReplicasRequest{}, &protocol.ReplicasReply{})
		return errcode.Of(err) == errcode.RequestTimedOut
	})
}

func TestLeadersAreBroadcast(t *testing.T) {
	servers, cores := serveCluster(t, 3)
	l := lead(t, servers[0], "orders", 0)
	for i, core := range cores {
		eventually(t, "the leadership is known everywhere", func() bool { return core.leads(1, l.Shard) })
		eventually(t, "node 1 is alive", func() bool { return servers[i].Alive(1) })
	}
	l.Leading = false
	servers[0].Leadership(l)
	for _, core := range cores {
		eventually(t, "the loss is known everywhere", func() bool { return !core.leads(1, l.Shard) })
	}
}

func TestSilentNodeLeadsNothing(t *testing.T) {
	servers, cores := serveCluster(t, 2)
	l := lead(t, servers[1], "orders", 0)
	eventually(t, "the leadership is known", func() bool { return cores[0].leads(2, l.Shard) })
	servers[1].Close()
	eventually(t, "the node counts as gone", func() bool { return !servers[0].Alive(2) && !cores[0].leads(2, l.Shard) })
}

func TestLeadershipBeforeStartIsKept(t *testing.T) {
	s := New(Options{NodeID: 1, ClusterName: "test", ClientListen: "127.0.0.1:0"})
	s.Leadership(Leadership{Shard: 1001, Topic: "orders", Epoch: 1, Leading: true})
	if err := s.Start(&fakeCore{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, s).Request(produceSubject(0), []byte("x"), time.Second); err != nil {
		t.Fatal(err)
	}
	if err := s.SetRoutes(nil); err == nil {
		t.Error("a server without routes took routes")
	}
	if s.RouteAddr() != "" {
		t.Error("a server without routes has a route address")
	}
}

func TestAnswerThatIsTooLargeIsRefusedByCode(t *testing.T) {
	s := startServer(t, &fakeCore{control: func(_ handler.Plane, _ string, _ []byte, done func([]byte)) { done(make([]byte, 2<<20)) }})
	m, err := connect(t, s).Request("lb.a.topic_list", nil, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var e protocol.Envelope[protocol.Empty]
	if err := json.Unmarshal(m.Data, &e); err != nil || e.Error == nil || e.Error.Code != errcode.MessageTooLarge {
		t.Errorf("got %s", m.Data)
	}
}
