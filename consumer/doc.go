// Package consumer reads records from a logbroker cluster.
//
// It is the public client for reading; it is not for writing (package
// producer). A Reader reads one partition from a chosen offset. Start at
// NewReader and Reader.Next.
package consumer
