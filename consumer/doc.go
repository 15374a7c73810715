// Package consumer reads records from a logbroker cluster.
//
// It is the public client for reading; it is not for writing (package
// producer). A Reader reads one partition from a chosen offset: start at
// NewReader and Reader.Next. A Consumer is a member of a consumer group, which
// shares the partitions of topics among its members and remembers how far each
// got: start at New, then Consumer.Run, or Poll and Mark.
//
// # How records are fetched
//
// One goroutine per partition fetches ahead (feed.go, fetch.go). A fetch
// request is a credit in bytes; the leader answers with a stream of replies that
// holds whole batches. Each batch is checked (CRC, offset, high watermark)
// before it is queued, and the next request goes out as soon as half of the
// queue is drained, while the application works. A stream that breaks is simply
// left: the next request names the exact offset after the last queued batch.
// Decompression and decoding happen in the caller's goroutine.
//
// Offsets in a partition are dense, so a gap is a lost reply until the leader
// has repeated it.
//
// # How a group works
//
// One goroutine keeps the membership (membership.go): a heartbeat carries what
// the member owns, the answer what it may own; the coordinator holds the answer
// until there is news. What is no longer assigned is given up (rebalance.go):
// nothing more of it is handed out, what was is waited for and committed, and
// only then the next heartbeat lets it go. What is newly assigned is adopted:
// begun at the committed offset, announced by OnAssigned, then handed out. The
// other partitions go on all the while. Everything that is assigned or held
// counts as owned in a heartbeat, so that a partition never has two owners.
//
// Records are committed when they are marked, and up to the first one that is
// not (marks.go, commit.go): delivery is at least once. A member that was silent
// for the session time-out has lost everything (WithOnLost) and joins again; as
// far as it can tell by its own clock it hands out nothing from then on, and the
// coordinator refuses its commits in any case.
//
// # What is bounded
//
// What is fetched ahead is bounded over all partitions (WithMaxPrefetchBytes);
// each has an equal share, so neither a paused partition nor one with a slow
// handler takes anything from the others. Beside that, a partition that is being
// read holds one decoded batch.
package consumer
