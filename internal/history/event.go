package history

import "fmt"

// Kind says what an event tells.
type Kind uint8

// The kinds, with the fields that each one uses beside Kind, At and Process.
const (
	// Invoke: Message is about to be sent. Producer, Sequence (rising in the
	// order of sending).
	Invoke Kind = iota + 1
	// OK: Message was acked at Partition, Offset.
	OK
	// Fail: Message was refused, and it is certain that it was not stored.
	Fail
	// Unknown: whether Message was stored is not known.
	Unknown
	// Stored: Replica holds Message at Partition, Offset at the end. Message 0: what
	// is there is none of the messages.
	Stored

	// Begin: the process writes from here on. Flushed; Group and Member where it
	// is a member of a group. A process may be several members.
	Begin
	// End: the process wrote all it had.
	End
	// Killed, Stopped and Resumed: Process was, by whoever writes this. At of
	// Stopped is before the stop, that of Resumed after it.
	Killed
	Stopped
	Resumed

	// Assigned: Member owns Partition, beginning at Offset. Group, Epoch.
	Assigned
	// Revoked: Member is told by its group to give Partition up. Group, Epoch.
	Revoked
	// Leaving: Member gives Partition up as it leaves. Group, Epoch.
	Leaving
	// Lost: Member has learnt that it owns Partition no more. Group, Epoch.
	Lost
	// Delivered: Member was given Message at Partition, Offset. Group, Epoch.
	Delivered
	// Committed: Member's commit of Offset for Partition was acked; it was sent at
	// Began or later. Group, Epoch.
	Committed
	// Refused: a commit of Member was refused. Group, Note.
	Refused
	// Fetched: the coordinator answered that Offset is committed for Partition;
	// it was asked at Began. Group.
	Fetched

	// Read: Member, a reader that belongs to no group, was given Message at
	// Partition, Offset, and High with it. Epoch counts its beginnings there.
	Read
	// Watermark: the partition's leader answered that High is the high watermark of
	// Partition; it was asked at Began.
	Watermark
	// Healed: all faults are over.
	Healed

	kinds
)

// kindNames are the names in the encoding.
var kindNames = [kinds]string{
	"", "invoke", "ok", "fail", "unknown", "stored", "begin", "end", "killed", "stopped", "resumed",
	"assigned", "revoked", "leaving", "lost", "delivered", "committed", "refused", "fetched",
	"read", "watermark", "healed",
}

// String returns the name that the encoding uses.
func (k Kind) String() string {
	if k == 0 || k >= kinds {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	return kindNames[k]
}

// Event is one thing that a client did or saw. Fields that its kind does not use
// are zero.
type Event struct {
	Kind Kind
	// At is when it happened, Began when the request was sent that it answers, both
	// in nanoseconds since 1970 by the machine's clock.
	At, Began int64
	// Process names the process it is about, in all its files.
	Process string
	// Group and Member name a member; Epoch counts its ownerships of Partition from
	// 1 on. 0 says that it is not known which ownership the event belongs to.
	Group, Member string
	Epoch         int32
	Partition     int32
	Offset        int64
	// High is a high watermark: the next offset after the last record that is
	// committed.
	High int64
	// Message is unique in the history, 0 is none. Producer sent it as its
	// Sequence-th.
	Message  uint64
	Producer uint64
	Sequence int64
	Replica  uint64
	Flushed  bool
	// Note is for people.
	Note string
}

// String returns the event's JSON line, without its end.
func (e Event) String() string { return string(e.append(nil)) }
