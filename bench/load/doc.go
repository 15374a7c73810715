// Package load is the load of the bench tool and its measurement: what is sent,
// at which times, and what is counted. It knows no system: a System is an
// adapter of a few methods, so that every system is measured by the same code.
// It is not a library for applications.
//
// Start at Spec (what is to be done), then RunTurn (one system does it), then
// Result (what came out).
//
// # What is measured
//
// As fast as it goes (closed loop): a record counts when its ack arrives inside
// the measured window, and its latency runs from the call of Send. At a given
// rate (open loop): a record counts when its intended send time lies inside the
// window, however late the ack comes, and its latency runs from that intended
// time. So a system that stalls is charged for everything that should have been
// sent meanwhile.
//
// The warm-up is cut off from all figures, those of the processes too.
//
// # Goroutines
//
// One per producer, one per receiver, one sampler per phase; RunTurn waits for
// all of them.
package load
