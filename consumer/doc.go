// Package consumer reads records from a logbroker cluster.
//
// It is the public client for reading; it is not for writing (package
// producer). A Reader reads one partition from a chosen offset. Start at
// NewReader and Reader.Next.
//
// # How a Reader works
//
// One goroutine per reader fetches ahead (fetch.go). A fetch request is a
// credit in bytes; the leader answers with a stream of replies that holds whole
// batches. Each batch is checked (CRC, offset, high watermark) before it is
// queued, and the next request goes out as soon as half of the queue is
// drained, while the application works. A stream that breaks is simply left:
// the next request names the exact offset after the last queued batch.
// Decompression and decoding happen in the caller's goroutine (reader.go).
//
// Offsets in a partition are dense, so a gap is a lost reply until the leader
// has repeated it.
package consumer
