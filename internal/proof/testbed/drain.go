package testbed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"logbroker/consumer"
	"logbroker/internal/history"
	"logbroker/internal/protocol"
	"logbroker/internal/recordbatch"
	"logbroker/internal/storage"
	"logbroker/partitions/fsm"
)

// ErrUnreadable says that a replica's files do not hold a log.
var ErrUnreadable = errors.New("the replica's log cannot be read")

// replicaLog is one replica's log as it lies on its node's disk.
type replicaLog struct {
	node   int
	files  []string // in offset order
	digest [sha256.Size]byte
}

// openReplica finds the log of a shard's replica in a stopped node's directory.
func openReplica(n *Node, shard uint64) (*replicaLog, error) {
	parent := filepath.Join(n.dir, "partitions")
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, err
	}
	best := uint64(0) // ids are never reused: the highest one is the replica that serves
	for _, e := range entries {
		of, replica, _ := strings.Cut(e.Name(), "-")
		if id, err := strconv.ParseUint(replica, 10, 64); err == nil && of == strconv.FormatUint(shard, 10) {
			best = max(best, id)
		}
	}
	if best == 0 {
		return nil, fmt.Errorf("node %d, shard %d: %w: it has no directory", n.ID, shard, ErrUnreadable)
	}
	dir := filepath.Join(parent, fmt.Sprintf("%d-%d", shard, best))
	marker, err := fsm.ReadMarker(storage.OS(), dir)
	if err != nil {
		return nil, fmt.Errorf("node %d, shard %d: %w: %w", n.ID, shard, ErrUnreadable, err)
	}
	files, err := filepath.Glob(filepath.Join(marker.LogDir(storage.OS(), dir), "*.log"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files) // names are base offsets of one width
	r := &replicaLog{node: n.ID, files: files}
	return r, r.sum()
}

// sum computes the digest of all the log's bytes.
func (r *replicaLog) sum() error {
	h := sha256.New()
	for _, file := range r.files {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	h.Sum(r.digest[:0])
	return nil
}

// each calls f for every record, in offset order. Error: ErrUnreadable with the
// place.
func (r *replicaLog) each(f func(offset int64, value []byte)) error {
	for _, file := range r.files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for rest := data; len(rest) > 0; {
			var batch recordbatch.Batch
			batch, rest, err = recordbatch.Parse(rest)
			if err == nil {
				err = batch.CheckCRC()
			}
			if err == nil {
				err = eachRecord(batch, f)
			}
			if err != nil {
				return fmt.Errorf("node %d: %w: %s, byte %d: %w", r.node, ErrUnreadable, file, len(data)-len(rest), err)
			}
		}
	}
	return nil
}

func eachRecord(batch recordbatch.Batch, f func(offset int64, value []byte)) error {
	it, err := batch.Iterate(recordbatch.IterateOptions{})
	if err != nil {
		return err
	}
	for it.Next() {
		record := it.Record()
		f(record.Offset, record.Value)
	}
	return it.Err()
}

// identical reports whether all replicas hold the same bytes.
func identical(replicas []*replicaLog) bool {
	for _, r := range replicas[1:] {
		if !bytes.Equal(r.digest[:], replicas[0].digest[:]) {
			return false
		}
	}
	return true
}

// Identical reports whether all replicas of the stopped nodes hold the same bytes.
// Error: a replica that cannot be read, which matches ErrUnreadable.
func (c *Cluster) Identical(shards []uint64) (bool, error) {
	for _, shard := range shards {
		var replicas []*replicaLog
		for _, n := range c.Nodes {
			r, err := openReplica(n, shard)
			if err != nil {
				return false, err
			}
			replicas = append(replicas, r)
		}
		if !identical(replicas) {
			return false, nil
		}
	}
	return true, nil
}

// ReadAll reads a partition as clients do, from its first offset to the high
// watermark of now, as Stored events.
func (c *Cluster) ReadAll(ctx context.Context, topic string, partition int32) (events []history.Event, err error) {
	latest, err := c.admin.Offsets(ctx, topic, partition, protocol.TimestampLatest)
	if err != nil {
		return nil, fmt.Errorf("the latest offset of partition %d: %w", partition, err)
	}
	r, err := consumer.NewReader(ctx, c.URLs(), topic, partition, consumer.FromEarliest())
	if err != nil {
		return nil, fmt.Errorf("a reader of partition %d: %w", partition, err)
	}
	defer r.Close() //nolint:errcheck // it only read
	for len(events) == 0 || events[len(events)-1].Offset+1 < latest.Offset {
		record, err := r.Next(ctx)
		if err != nil {
			return nil, fmt.Errorf("after %d records of partition %d: %w", len(events), partition, err)
		}
		events = append(events, history.Event{Kind: history.Stored, Partition: partition, Offset: record.Offset, Message: messageIn(record.Value)})
	}
	return events, nil
}
