// Package producer sends records to a logbroker cluster.
//
// It is the public client for writing; it is not for reading (package
// consumer) and not for administration. Start at New and Producer.Send.
package producer
