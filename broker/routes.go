package broker

import (
	"maps"
	"slices"
	"time"

	"logbroker/broker/metadata"
)

// routeGrace is how long a node leaves the dialling of a route to the node with
// the higher id.
//
// Two NATS servers that dial each other at the same moment may each keep the
// connection that the other one drops. Then there is none, and both try again
// after a second: for so long the nodes hear nothing of each other and clients
// on one of them find no leader on the other. So one of the two dials first.
const routeGrace = 250 * time.Millisecond

// followNodes takes over the addresses of an image and opens routes: at once to
// nodes with a lower id and to where a route was wanted before, with all to
// every node. left reports whether a node is left to dial this one.
func (b *Broker) followNodes(image *metadata.Image, all bool) (left bool) {
	b.addresses.learnImage(image)
	routes := map[uint64]string{}
	for _, n := range image.Nodes() {
		if n.ID == b.config.Cluster.NodeID || n.RouteAddr == "" {
			continue
		}
		if all || n.ID < b.config.Cluster.NodeID || b.routes[n.ID] == n.RouteAddr {
			routes[n.ID] = n.RouteAddr
		} else {
			left = true
		}
	}
	if maps.Equal(routes, b.routes) {
		return left
	}
	if err := b.nats.SetRoutes(slices.Sorted(maps.Values(routes))); err != nil {
		b.logger.Error("cannot open the routes to the other nodes", "err", err)
		return left
	}
	b.routes = routes
	return left
}
