package broker

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"logbroker/config"
)

// certificates are the TLS configurations made from one certificate; all nil
// where TLS is off.
type certificates struct {
	// client is for the client port and HTTP: clients show a certificate only
	// where tls.client_auth says so.
	client *tls.Config
	// peerServer and peerClient are for Raft and routes: with a CA both sides
	// must show a certificate of it.
	peerServer, peerClient *tls.Config
	// route is for both ends of a NATS route.
	route *tls.Config
}

func loadCertificates(c config.TLS) (certificates, error) {
	if !c.Enabled() {
		return certificates{}, nil
	}
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return certificates{}, fmt.Errorf("tls.cert_file %s and tls.key_file %s: %w", c.CertFile, c.KeyFile, err)
	}
	var roots *x509.CertPool
	if c.CAFile != "" {
		if roots, err = loadRoots(c.CAFile); err != nil {
			return certificates{}, err
		}
	}
	server := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	client, peer := server.Clone(), server.Clone()
	if c.ClientAuth == "require" {
		client.ClientAuth, client.ClientCAs = tls.RequireAndVerifyClientCert, roots
	}
	if roots != nil {
		peer.ClientAuth, peer.ClientCAs = tls.RequireAndVerifyClientCert, roots
	}
	route := peer.Clone()
	route.RootCAs = roots
	return certificates{
		client:     client,
		peerServer: peer,
		route:      route,
		peerClient: &tls.Config{Certificates: server.Certificates, RootCAs: roots, MinVersion: tls.VersionTLS12},
	}, nil
}

func loadRoots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("tls.ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls.ca_file %s holds no PEM certificate", file)
	}
	return roots, nil
}
