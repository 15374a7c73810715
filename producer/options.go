package producer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"logbroker/internal/recordbatch"
)

// Compression is a codec for batches.
type Compression = recordbatch.Codec

// The codecs. Zstd runs at its fastest level.
const (
	None   = recordbatch.None
	Gzip   = recordbatch.Gzip
	Snappy = recordbatch.Snappy
	Lz4    = recordbatch.Lz4
	Zstd   = recordbatch.Zstd
)

// Defaults of the options.
const (
	DefaultLingerMax       = 5 * time.Millisecond
	DefaultBatchBytes      = 512 << 10
	DefaultBufferBytes     = 32 << 20
	DefaultDeliveryTimeout = 2 * time.Minute
	DefaultMaxInFlight     = 5
)

// Option changes a default of New.
type Option func(*options)

type options struct {
	name            string
	tls             *tls.Config
	dial            func(network, address string) (net.Conn, error)
	logger          *slog.Logger
	linger          time.Duration // < 0: adaptive
	batchBytes      int
	bufferBytes     int64
	deliveryTimeout time.Duration
	maxInFlight     int
	compression     Compression
	partitioner     Partitioner
	// attemptFirst is the time-out of a batch's first attempt; it doubles with
	// every one that passes.
	attemptFirst time.Duration
}

func defaultOptions() options {
	return options{
		name:            "logbroker-producer",
		logger:          slog.New(slog.DiscardHandler),
		linger:          -1,
		batchBytes:      DefaultBatchBytes,
		bufferBytes:     DefaultBufferBytes,
		deliveryTimeout: DefaultDeliveryTimeout,
		maxInFlight:     DefaultMaxInFlight,
		compression:     Zstd,
		partitioner:     DefaultPartitioner,
		attemptFirst:    1500 * time.Millisecond,
	}
}

// validate returns all faults at once.
func (o *options) validate() error {
	var errs []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("producer: "+format, args...))
		}
	}
	fault(o.batchBytes < 1<<10 || o.batchBytes > 1<<20, "WithBatchBytes(%d): must lie between 1 KiB and 1 MiB", o.batchBytes)
	fault(o.bufferBytes < int64(o.batchBytes), "WithBufferBytes(%d): must hold at least one batch of %d bytes", o.bufferBytes, o.batchBytes)
	fault(o.deliveryTimeout <= 0, "WithDeliveryTimeout(%s): must be positive", o.deliveryTimeout)
	fault(o.maxInFlight < 1 || o.maxInFlight > 64, "WithMaxInFlight(%d): must lie between 1 and 64", o.maxInFlight)
	fault(o.partitioner == nil, "WithPartitioner(nil): leave the option out for the default")
	fault(o.linger > time.Minute, "WithLinger(%s): must not exceed a minute", o.linger)
	return errors.Join(errs...)
}

// WithLinger fixes how long a batch waits for more records. Default: adaptive,
// which is not at all while nothing of the partition is in flight, else until
// an ack comes in, the batch is full, or DefaultLingerMax has passed.
func WithLinger(d time.Duration) Option { return func(o *options) { o.linger = max(d, 0) } }

// WithBatchBytes sets the size at which a batch is sent, as it is expected to be
// once compressed; how far a topic's batches shrink is learnt from those before.
// Default 512 KiB. A topic's max_batch_bytes caps the size before compression.
// Where many batches are open at once, or the buffer is small, they are closed
// from half the size on, so that open ones do not fill WithBufferBytes.
func WithBatchBytes(n int) Option { return func(o *options) { o.batchBytes = n } }

// WithBufferBytes bounds the memory of records that are not acked yet, over all
// topics. Default 32 MiB. SendAsync and Send wait when it is reached.
func WithBufferBytes(n int64) Option { return func(o *options) { o.bufferBytes = n } }

// WithDeliveryTimeout bounds the time from Send to the verdict. Default 2
// minutes; the cluster caps it at a tenth of its producer_state.expiry.
func WithDeliveryTimeout(d time.Duration) Option { return func(o *options) { o.deliveryTimeout = d } }

// WithMaxInFlight bounds the unacked batches per partition. Default 5, at most
// 64; the cluster's producer_state.window caps it.
func WithMaxInFlight(n int) Option { return func(o *options) { o.maxInFlight = n } }

// WithCompression sets the codec. Default Zstd. A batch that does not shrink
// is sent uncompressed.
func WithCompression(c Compression) Option { return func(o *options) { o.compression = c } }

// WithPartitioner replaces DefaultPartitioner.
func WithPartitioner(p Partitioner) Option { return func(o *options) { o.partitioner = p } }

// WithLogger sets the logger. Default: nothing is logged.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

// WithTLS makes every connection use TLS. Default: none.
func WithTLS(c *tls.Config) Option { return func(o *options) { o.tls = c } }

// WithDialer makes connections by dial, to the addresses that the cluster
// advertises: through a proxy, say. Default: TCP.
func WithDialer(dial func(network, address string) (net.Conn, error)) Option {
	return func(o *options) { o.dial = dial }
}

// WithName sets the connection's name in the broker's lists. Default
// "logbroker-producer".
func WithName(name string) Option { return func(o *options) { o.name = name } }
