// Package commitlog is the log of one partition on disk: segments of record
// batches, their sparse indexes, recovery after a crash, reads, retention.
//
// It is not replicated and knows no Raft, no clock and no network: which
// batches come, at which offset and time, is decided above (partitions/fsm)
// and is the same on every replica, so the segment files are too.
//
// One goroutine writes (Append, Sync, Trim, Close), any number
// read. Readers work on an immutable list of segments that the writer swaps
// atomically, and on an extent per segment (how far it may be read) that the
// writer replaces after each write. Start at Log, then append.go and read.go;
// recover.go says what a crash may leave behind and why Open is exact.
//
// # Files
//
// All names carry the segment's base offset as 20 digits.
//
//	<base>.log        the batches, nothing else, in offset order
//	<base>.index      offset → position, sparse; rebuilt from the .log
//	<base>.timeindex  greatest timestamp → offset, sparse; rebuilt as well
//	<base>.footer     of a sealed segment: length, CRC-32C of the whole .log,
//	                  end offset, append times (footer.go)
//
// # Durability
//
// Append makes nothing durable. Sync makes everything durable and returns the
// State that says how far; the caller stores that State in its marker. Its two
// halves (sync.go) let the writer go on while the disk is at work. Open
// gets the State of the last durable marker and cuts away whatever is newer.
package commitlog
