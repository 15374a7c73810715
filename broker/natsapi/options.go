package natsapi

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"logbroker/internal/protocol"
)

// The users of the embedded server. A client that shows no credentials is the
// user client.
const (
	userBroker = "broker"
	userClient = "client"
)

const (
	// A client that has vanished is noticed within a minute; it costs little until
	// then, and ten thousand that are pinged every few seconds do not.
	clientPingInterval = 20 * time.Second
	// Without pings a cut route is noticed only when TCP gives up.
	routePingInterval  = 2 * time.Second
	pingsOutMax        = 2
	writeDeadline      = 5 * time.Second
	routeWriteDeadline = 10 * time.Second
)

// serverOptions returns the options of the embedded server.
func (s *Server) serverOptions() (*server.Options, error) {
	host, port, err := hostPort("client.listen", s.options.ClientListen)
	if err != nil {
		return nil, err
	}
	o := &server.Options{
		ServerName:   protocol.ServerName(s.options.ClusterName, s.options.NodeID),
		Host:         host,
		Port:         port,
		NoSigs:       true,
		PingInterval: clientPingInterval,
		MaxPingsOut:  pingsOutMax,
		MaxPayload:   int32(s.options.MaxBatchBytes + payloadExtra),
		MaxPending:   s.options.PendingBytesMax,
		// With NoFastProducerStall the server would drop messages silently
		// instead of slowing their sender down.
		NoFastProducerStall: false,
		WriteDeadline:       writeDeadline,
		Users:               s.users(),
		NoAuthUser:          userClient,
		TLSConfig:           s.options.ClientTLS,
		TLS:                 s.options.ClientTLS != nil,
		TLSTimeout:          readyTimeout.Seconds(),
		AuthTimeout:         readyTimeout.Seconds(),
		// Zero would mean the server's defaults, which are minutes.
		LameDuckDuration:    max(s.options.LameDuck, time.Second),
		LameDuckGracePeriod: max(s.options.LameDuck/4, time.Millisecond),
		// The error of one failing route is said once a minute or so.
		ReconnectErrorReports: 30,
		ConnectErrorReports:   30,
	}
	o.ClientAdvertise = s.advertise(host, port)
	if s.options.RouteListen == "" {
		return o, nil
	}
	if err := s.clusterOptions(o); err != nil {
		return nil, err
	}
	o.Routes, err = routeURLs(s.options.Routes)
	return o, err
}

func (s *Server) clusterOptions(o *server.Options) error {
	host, port, err := hostPort("nats_cluster.listen", s.options.RouteListen)
	if err != nil {
		return err
	}
	o.Cluster = server.ClusterOpts{
		Name: s.options.ClusterName, Host: host, Port: port,
		// One account means one connection per route in use.
		PoolSize:      1,
		PingInterval:  routePingInterval,
		MaxPingsOut:   pingsOutMax,
		WriteDeadline: routeWriteDeadline,
		TLSConfig:     s.options.RouteTLS,
		TLSTimeout:    readyTimeout.Seconds(),
		AuthTimeout:   readyTimeout.Seconds(),
	}
	o.Cluster.Advertise = s.advertise(host, port)
	if s.options.RouteAdvertise != "" {
		o.Cluster.Advertise = s.options.RouteAdvertise
	}
	return nil
}

// advertise returns what the server tells others instead of a wildcard listen
// address; "" leaves it to the server.
func (s *Server) advertise(host string, port int) string {
	ip := net.ParseIP(host)
	if s.options.AdvertiseHost == "" || port == server.RANDOM_PORT || host != "" && !ip.IsUnspecified() {
		return ""
	}
	return net.JoinHostPort(s.options.AdvertiseHost, strconv.Itoa(port))
}

// users returns who may do what. The server does not check the reply subjects
// of messages: a client could have the broker write for it. So the broker may
// publish to inboxes and to its own subjects only.
func (s *Server) users() []*server.User {
	own := brokerInbox + ".>"
	return []*server.User{
		{Username: userBroker, Password: s.password, Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{
				"_INBOX.>", "_R_.>", own, protocol.PrefixProduce + ">", protocol.PrefixFetch + ">",
				protocol.PrefixNode + ">", protocol.SubjectLeaders,
			}},
			Subscribe: &server.SubjectPermission{Allow: []string{"lb.>", own}},
		}},
		{Username: userClient, Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Deny: []string{protocol.PrefixNode + ">", "lb.i.>", "$SYS.>", own}},
			Subscribe: &server.SubjectPermission{Deny: []string{"lb.>", "$SYS.>", own}},
		}},
	}
}

// dial makes one of the broker's own connections. It never reconnects with
// buffered requests: whoever sent them tries again.
func (s *Server) dial(name string) (*nats.Conn, error) {
	options := []nats.Option{
		nats.InProcessServer(s.nats),
		nats.Timeout(readyTimeout), // the default fails the start where the machine stands still for 2 s
		nats.Name(fmt.Sprintf("logbroker node %d %s", s.options.NodeID, name)),
		nats.UserInfo(userBroker, s.password),
		nats.CustomInboxPrefix(brokerInbox),
		nats.ReconnectBufSize(-1),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond),
		nats.ErrorHandler(s.onConnError),
		nats.DrainTimeout(readyTimeout),
	}
	return nats.Connect("", options...)
}

// hostPort splits a listen address; port 0 becomes "any".
func hostPort(key, address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("%s %q is not host:port: %w", key, address, err)
	}
	if port, err = strconv.Atoi(text); err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%s %q: %q is not a port", key, address, text)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// probe says in one line that a port is taken, which the server itself only logs.
func probe(key, address string) error {
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("cannot listen on %s (%s): %w", address, key, err)
	}
	return l.Close()
}

func routeURLs(routes []string) ([]*url.URL, error) {
	out := make([]*url.URL, 0, len(routes))
	for _, r := range routes {
		if _, _, err := net.SplitHostPort(r); err != nil {
			return nil, fmt.Errorf("route %q is not host:port: %w", r, err)
		}
		out = append(out, &url.URL{Scheme: "nats-route", Host: r})
	}
	return out, nil
}

// SetRoutes replaces the route addresses of the other nodes. The node's own
// address may be among them.
func (s *Server) SetRoutes(routes []string) error {
	if s.options.RouteListen == "" {
		return fmt.Errorf("node %d was started without nats_cluster.listen and takes no routes", s.options.NodeID)
	}
	urls, err := routeURLs(routes)
	if err != nil {
		return err
	}
	s.optionsMu.Lock()
	defer s.optionsMu.Unlock()
	next := s.natsOptions.Clone()
	next.Routes = urls
	if err := s.nats.ReloadOptions(next.Clone()); err != nil {
		return fmt.Errorf("change the routes of the NATS server: %w", err)
	}
	s.natsOptions = next
	return nil
}
