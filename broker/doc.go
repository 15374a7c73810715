// Package broker is one node: it wires storage, Raft, metadata, partitions, the
// core and the front doors together, starts them in order and stops them in
// reverse.
//
// It decides nothing about requests (broker/handler does) and nothing about
// data (partitions does). Start at Broker.Run in broker.go, which reads as the
// list of parts in the order they start.
package broker
