package broker

import (
	"log/slog"
	"net"

	"logbroker/internal/buildinfo"
)

func version() string { return buildinfo.Read().Version }

// level reads a level that Validate has accepted.
func level(text string) slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(text)); err != nil {
		return slog.LevelWarn
	}
	return l
}

// advertised returns what peers are told for a listen address: the advertised
// host with the listen address's port; "" means the address itself.
func advertised(host, listen string) string {
	if host == "" {
		return ""
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "" // Validate has refused it
	}
	return net.JoinHostPort(host, port)
}

func (b *Broker) advertise(listen string) string {
	if told := advertised(b.config.Cluster.AdvertiseHost, listen); told != "" {
		return told
	}
	return listen
}

func (b *Broker) httpAddr() string { return b.advertise(b.http.Addr()) }
func (b *Broker) routeAddr() string {
	if b.under.Route != "" {
		return b.under.Route
	}
	return b.advertise(b.nats.RouteAddr())
}

// clientURLs are the URLs that clients are told, best first.
func (b *Broker) clientURLs() []string {
	if urls := b.config.Client.ExternalURLs; len(urls) > 0 {
		return urls
	}
	scheme := "nats://"
	if b.certs.client != nil {
		scheme = "tls://"
	}
	return []string{scheme + b.advertise(b.nats.ClientAddr())}
}
