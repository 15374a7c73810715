package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"logbroker/internal/cli"
)

const (
	defaultServer = "nats://127.0.0.1:4222"
	envServer     = "LOGBROKER_SERVER"
	envProfile    = "LOGBROKER_PROFILE"
)

// connection says how to reach the cluster.
type connection struct {
	servers []string
	tls     *tls.Config // nil: none
	logger  *slog.Logger
	timeout time.Duration
}

// tlsFiles names the PEM files of a TLS connection. All empty: no TLS.
type tlsFiles struct {
	CA   string `yaml:"ca,omitempty" json:"ca"`
	Cert string `yaml:"cert,omitempty" json:"cert"`
	Key  string `yaml:"key,omitempty" json:"key"`
}

// connection puts the settings together: --server, --profile, LOGBROKER_SERVER,
// LOGBROKER_PROFILE, the profile in use, the default; the first that is there.
// Files of TLS come from the flags or from the profile that the servers belong to.
func (a *app) connection() (connection, error) {
	if a.globals.timeout <= 0 {
		return connection{}, cli.Usage("--timeout %s: it must be more than nothing", a.globals.timeout)
	}
	servers, files, err := a.endpoint()
	if err != nil {
		return connection{}, err
	}
	files = files.over(tlsFiles{a.globals.ca, a.globals.cert, a.globals.keyF})
	config, err := files.config()
	if err != nil {
		return connection{}, err
	}
	return connection{servers: servers, tls: config, logger: a.logger(), timeout: a.globals.timeout}, nil
}

// endpoint returns the servers, and the TLS files of the profile if one is used.
func (a *app) endpoint() ([]string, tlsFiles, error) {
	name, named := a.globals.profile, a.globals.profile != ""
	env := splitServers(a.getenv(envServer))
	if !named && len(a.globals.servers) > 0 {
		return a.globals.servers, tlsFiles{}, nil
	}
	if !named && len(env) > 0 {
		return env, tlsFiles{}, nil
	}
	if !named {
		name = a.getenv(envProfile)
	}
	p, found, err := a.profileToUse(name)
	if err != nil {
		return nil, tlsFiles{}, err
	}
	switch {
	case len(a.globals.servers) > 0:
		return a.globals.servers, p.TLS, nil
	case found:
		return p.Servers, p.TLS, nil
	}
	return []string{defaultServer}, tlsFiles{}, nil
}

func splitServers(list string) []string {
	var out []string
	for s := range strings.SplitSeq(list, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// over returns f with what flags name put over it.
func (f tlsFiles) over(flags tlsFiles) tlsFiles {
	if flags.CA != "" {
		f.CA = flags.CA
	}
	if flags.Cert != "" || flags.Key != "" {
		f.Cert, f.Key = flags.Cert, flags.Key
	}
	return f
}

// config reads the files; nil where none is named.
func (f tlsFiles) config() (*tls.Config, error) {
	if f == (tlsFiles{}) {
		return nil, nil
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, cli.Usage("a client certificate needs both --tls-cert and --tls-key")
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("reading --tls-ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--tls-ca %s holds no certificate in PEM form", f.CA)
		}
	}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("reading --tls-cert and --tls-key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
