// Package history records what clients of a cluster did and saw, and judges it
// afterwards: was an acked record lost, had a partition two owners, did a
// group's offset go back? It knows nothing of logbroker: it imports the standard
// library only, and whatever keeps a log and groups can be judged by it.
//
// Start at Event (event.go). A Recorder (recorder.go) writes events as JSON
// lines to a file (encoding.go), one file a process; Load merges files, and Check
// (check.go) returns every fault with the events that prove it. produce.go judges
// what was sent, reader.go what was read, group.go what groups were given and
// committed.
//
// A history is of one topic and one machine: its events carry that machine's
// clock, and one event counts as before another one only where its time is
// smaller, so equal times prove nothing. Each check is a lookup or a sweep:
// time and memory grow with the number of events.
//
// # The witness
//
// The final log, read from every replica after all faults are healed, is the
// order in which writes took effect (Stored events). An acked record must be in
// it at its acked offset, a record that definitely failed must not, and a
// record whose outcome is unknown may be.
//
// # What is known and what is not
//
// A process that was killed leaves a file with a torn last line, or without the
// last events. What is missing is unknown, and nothing is concluded from it: an
// invoke without an outcome may or may not have had its effect, an ownership
// without an end has no known end. A delivery that is missing would look like a
// record that nobody was given. So a process either says with its Begin event
// that it flushes deliveries before they can be committed (Event.Flushed; then a
// commit proves that the delivery was written), or, where its file has no End, what
// its group was not given is not judged but counted in Report.Excused. Flush the
// Begin event at once: of a process with an empty file nothing is known.
//
// # Readers
//
// A reader that belongs to no group is given records in a row from wherever it
// begins (Read), each with the high watermark that its answer carried. A high
// watermark that was asked for (Watermark) must cover every record that was
// acked before the question, must not be lower than one that came as an answer
// before the question, and everything below it must be in the final log: it says
// that this is committed.
//
// # Waiting
//
// After the Healed event every message must be acked within Options.AckMax, and
// what was sent before it must have an outcome by then. Processes that were killed
// or stopped at any time are left out of this.
//
// # Two owners
//
// An ownership is one stay of a partition with a member: from Assigned to
// Revoked, Leaving or Lost. Member and Epoch name it, and the member counts the
// epochs itself. What a member believes is not what it owns: one that was stopped, or
// could not reach the coordinator, for longer than its session has been removed,
// others own its partitions, and it cannot know before it hears of it. That is
// legal as long as nothing it does takes effect. So two owners are proven by
// effects and by members in contact, never by belief:
//
//   - X's commit was acked, and it was sent after Y, which came after X, was told
//     that it owns the partition. X's ownership took effect after Y's began.
//   - X was told by its group, and not by its own end, to give the partition up
//     (Revoked) after Y was told that it owns it, though X's process was never
//     stopped meanwhile: the coordinator held X for the owner until then.
//   - X was given a record more than Options.HandOutMax after Y was told that it
//     owns the partition, though X's process was never stopped meanwhile: a member
//     knows by its own clock when its session is over. 0 judges nothing of the kind.
//
// Here "Y came after X" is the order of their Assigned events. It is that of the
// grants, which each precede their Assigned, where the first owner is free of
// the partition before the second is granted it; where it is not, one of the
// two is caught by its own later acts.
//
// # Group offsets
//
// Committed and Fetched are what was acked, and what the coordinator answered,
// each with the time it was asked (Began). An answer that came before another
// question was asked is never higher than the second answer (OffsetWentBack).
// Members that rewind on purpose, and `seek` on a group, do not belong into a
// history. An ownership must not begin below a commit that was acked to another
// ownership and sent before it began (Redelivered), must be given every offset in
// turn from where it began (Skipped), and no group offset may ever be seen that
// is higher than what members had been given until then (Gap).
package history
