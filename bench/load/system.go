package load

import "context"

// Record is one record to send. Key (nil: none) is never changed; Value belongs
// to the Sender until done is called, and is used again after that.
type Record struct {
	Topic int // 0 … Spec.Topics-1
	Key   []byte
	Value []byte
}

// Sender is one producer's client with its own connections.
type Sender interface {
	// Send hands a record over and blocks for back-pressure only. done is called
	// exactly once, from any goroutine, with nil when the record is stored as
	// durably as the system's settings say. It must not be called while the
	// Sender holds a lock that Send takes. After ctx ended done still is called.
	Send(ctx context.Context, r Record, done func(error))
	// Flush returns once done was called for every record handed over.
	Flush(ctx context.Context) error
	Close() error
}

// Receiver is one consumer's client with its own connections.
type Receiver interface {
	// Receive delivers values until ctx ends, and then returns nil. visit may be
	// called from several goroutines at once; it does not keep or change the
	// values.
	Receive(ctx context.Context, visit func(values [][]byte)) error
	Close() error
}

// System is a log that is measured. RunTurn calls Start, then makes senders and
// receivers, then Stop, all from one goroutine.
type System interface {
	// Name is "logbroker", "jetstream_always", "jetstream_default",
	// "raw_dragonboat" or "kafka".
	Name() string
	// Settings is every setting that matters for the figures, as a reader needs
	// it to repeat the run. Valid after Start.
	Settings() map[string]string
	// Start starts what is to be measured, or connects to it, and makes fresh
	// topics. It returns when every partition takes records.
	Start(ctx context.Context, spec Spec) error
	// Stop ends everything that Start started. It is called once, also after a
	// Start that failed.
	Stop() error
	// Processes are the brokers whose CPU, memory and disk are measured; nil
	// where they are not ours.
	Processes() []int
	// NewSender returns producer n of Spec.Producers. The context is not kept.
	NewSender(ctx context.Context, n int) (Sender, error)
	// NewReceiver returns consumer n of Spec.Consumers. Not in a group it reads
	// its share of the partitions from their start: those whose running number
	// over all topics is n modulo Spec.Consumers. In a group the members share
	// all partitions, also from the start; each call with group set joins the
	// same group until the System is stopped. The context is not kept.
	NewReceiver(ctx context.Context, n int, group bool) (Receiver, error)
}

// Counter is implemented by a System that knows how many records its topics
// hold, so that PhaseConsume can read what an earlier run has produced.
type Counter interface {
	Stored(ctx context.Context) (int64, error)
}
