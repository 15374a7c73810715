package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"logbroker/config"
	"logbroker/consumer"
	"logbroker/internal/client"
	"logbroker/producer"
)

// authority is a certificate authority made for one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	file string // of the certificate, PEM
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool(), file: filepath.Join(t.TempDir(), "ca.pem")}
	a.key = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate for 127.0.0.1 that is good for both sides.
func (a *authority) issue(name string) (certFile, keyFile string) {
	a.t.Helper()
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	rawKey, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	dir := a.t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(a.t, certFile, "CERTIFICATE", der)
	writePEM(a.t, keyFile, "EC PRIVATE KEY", rawKey)
	return certFile, keyFile
}

// client is a client's TLS configuration, with a certificate where named.
func (a *authority) client(name string) *tls.Config {
	a.t.Helper()
	c := &tls.Config{RootCAs: a.pool, MinVersion: tls.VersionTLS12}
	if name != "" {
		certFile, keyFile := a.issue(name)
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			a.t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

func TestTLSOnEveryPort(t *testing.T) {
	t.Parallel()
	for _, clientAuth := range []string{"none", "require"} {
		t.Run("client_auth "+clientAuth, func(t *testing.T) {
			ca := newAuthority(t)
			certFile, keyFile := ca.issue("node")
			good := ca.client("")
			if clientAuth == "require" {
				good = ca.client("an application")
			}
			c := Start(t, Options{Client: client.Options{TLS: good}, Configure: func(f *config.Config) {
				f.TLS = config.TLS{CertFile: certFile, KeyFile: keyFile, CAFile: ca.file, ClientAuth: clientAuth}
			}})
			c.CreateTopic("secret", 3, 3, nil)
			produceAndRead(t, c, good)
			expectHTTPS(t, c, good)
			expectRefusedClients(t, c, ca, clientAuth == "require")
		})
	}
}

func produceAndRead(t *testing.T, c *Cluster, secure *tls.Config) {
	t.Helper()
	p := c.produce(producer.WithTLS(secure))
	for partition := range int32(3) {
		if _, err := p.Send(within(t, waitTimeout), producer.Record{Topic: "secret", Partition: &partition, Value: fmt.Append(nil, partition)}); err != nil {
			t.Fatal(err)
		}
		rec, err := c.read("secret", partition, consumer.WithTLS(secure)).Next(within(t, waitTimeout))
		if err != nil || string(rec.Value) != fmt.Sprint(partition) {
			t.Fatalf("partition %d: read %+v, %v", partition, rec, err)
		}
	}
}

func expectHTTPS(t *testing.T, c *Cluster, secure *tls.Config) {
	t.Helper()
	url := c.Info(1).HTTPURL
	if !strings.HasPrefix(url, "https://") {
		t.Fatalf("HTTP URL %s", url)
	}
	transport := &http.Transport{TLSClientConfig: secure.Clone()}
	defer transport.CloseIdleConnections()
	get := func(url string) (int, string) {
		r, err := (&http.Client{Transport: transport, Timeout: waitTimeout}).Get(url)
		if err != nil {
			t.Fatalf("GET %s: %v", url, err)
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(body)
	}
	c.WaitFor("/readyz over TLS says 200", func() bool { // 503 while the metadata elects
		code, body := get(url + "/readyz")
		if code != http.StatusOK && code != http.StatusServiceUnavailable {
			t.Fatalf("GET /readyz over TLS: %d %s", code, body)
		}
		return code == http.StatusOK
	})
	if code, _ := get(strings.Replace(url, "https://", "http://", 1) + "/readyz"); code == http.StatusOK {
		t.Error("plain HTTP was served on the TLS port")
	}
}

func expectRefusedClients(t *testing.T, c *Cluster, ca *authority, certificateNeeded bool) {
	t.Helper()
	url := c.Info(1).ClientURL
	_, at, _ := strings.Cut(url, "://")
	refused := map[string]func() error{
		"plain text": func() error { return plainText(at) },
		"unknown authority": func() error {
			return connectWith(url, &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12})
		},
	}
	if certificateNeeded {
		stranger := ca.client("")
		stranger.Certificates = newAuthority(t).client("a stranger").Certificates
		refused["no certificate"] = func() error { return connectWith(url, ca.client("")) }
		refused["a stranger's certificate"] = func() error { return connectWith(url, stranger) }
	}
	for name, connect := range refused {
		if err := connect(); err == nil {
			t.Errorf("a client with %s was let in", name)
		}
	}
}

func connectWith(url string, c *tls.Config) error {
	nc, err := nats.Connect(url, nats.Secure(c), nats.Timeout(waitTimeout), nats.MaxReconnects(0))
	if err != nil {
		return err
	}
	defer nc.Close()
	return nc.FlushTimeout(waitTimeout)
}

// plainText speaks the NATS protocol without TLS, as an old or careless client
// would, and returns nil where the server answers its ping.
func plainText(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, waitTimeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("CONNECT {\"verbose\":false,\"tls_required\":false}\r\nPING\r\n")); err != nil {
		return err
	}
	said, err := io.ReadAll(conn)
	if strings.Contains(string(said), "PONG") {
		return nil
	}
	return fmt.Errorf("no answer: %w", fmt.Errorf("%q, %w", said, errOr(err)))
}

// errOr gives an end of input a name.
func errOr(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}
