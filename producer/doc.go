// Package producer sends records to a logbroker cluster.
//
// It is the public client for writing; it is not for reading (package
// consumer) and not for administration. Start at New and Producer.Send.
//
// # What happens to a record
//
// SendAsync finds the topic (metadata.go of internal/client keeps it), picks a
// partition, reserves bytes (budget.go) and appends the record to the
// partition's open batch (partition.go). From there on the partition's
// goroutine owns it: it closes the batch when it is full or has lingered,
// compresses it, gives it a number (producer id, epoch, sequence), sends it to
// the leader and hears the replies (sender.go). What replies mean for the
// numbered batches is decided in window.go, which is pure: no clock, no I/O, no
// lock. Results go to one goroutine that runs the callbacks (complete.go).
//
// # Numbers and retries
//
// Every batch is idempotent. The broker stores sequence s+1 only after s, and
// recognises what it has stored; so the rules are these.
//
//  1. A batch keeps its bytes and its number while its outcome is unknown. It
//     is never split, merged or numbered anew.
//  2. Up to MaxInFlight numbered batches are under way per partition. As soon
//     as one of them gets anything but success, nothing more is sent until all
//     attempts under way have ended (a round). Then everything that is not
//     stored is sent again, in order, with the same numbers.
//  3. So OUT_OF_ORDER_SEQUENCE_NUMBER behind an unresolved batch is no news: its
//     forerunner is missing, and is sent again before it.
//  4. A duplicate is a success, with the first copy's offset. A success is
//     taken from any attempt, also a late one.
//  5. An attempt is definite when it proves that nothing was stored and nothing
//     will be by that attempt: it never left, nobody got it, or it was refused
//     by the only replica that could have stored it (outcome.go). All else
//     (time-outs, broken connections, NOT_LEADER) is ambiguous, and one
//     ambiguous attempt makes the batch ambiguous until it succeeds.
//  6. A batch all of whose attempts were definite is certainly not stored; and
//     as the broker stores without gaps, neither is anything behind it. That is
//     the one case in which numbers are given up: the batch fails or waits, and
//     everything behind it is numbered anew in the next producer epoch.
//  7. At the delivery time-out a batch that was never ambiguous fails with
//     ErrDeliveryTimeout, an ambiguous one with ErrUnknownOutcome. After the
//     latter no new number is given until all that is still numbered is
//     resolved or timed out too; then the epoch rises, which fences whatever
//     old attempt may still be floating in the cluster. The same rise comes
//     after long silence, before the broker may have forgotten the producer.
//  8. A refusal that no retry mends (MESSAGE_TOO_LARGE …) fails the batch at
//     once when it was never ambiguous. Otherwise it is sent on until the
//     delivery time-out, because only the broker knows if it is stored.
//  9. When the metadata says that the topic is no more, and nobody takes the
//     batch, it fails with UNKNOWN_TOPIC_ID at once, and with ErrUnknownOutcome
//     beside it where it was ambiguous.
//
// Sizes are checked before a number is given, so a batch that is too large
// leaves no hole in the sequence; where the broker refuses one all the same,
// rule 6 closes the hole.
//
// # Goroutines
//
// One per partition that is written to, one for callbacks, and those of
// internal/client. None per record, none per batch.
package producer
