package recordbatch

import (
	"hash/crc32"

	"logbroker/internal/errcode"
)

// Attribute bits (Kafka protocol guide, "Record Batch").
const (
	codecMask = 0x07
	// unsupportedAttributes are the bits a batch may not carry here. 3 (the
	// timestamps are the broker's), 4 (transactional) and 5 (control) are the
	// broker's to set in Kafka; 6 changes what the base timestamp means; the
	// rest is reserved, and a bit that is unknown may change how the records
	// are to be read.
	unsupportedAttributes = ^int16(codecMask)
)

// recordSizeMin is the size of the smallest record: length, attributes, two
// deltas, two lengths and the header count take a byte each.
const recordSizeMin = 7

// Validate checks everything a broker demands of a batch before it is
// proposed: size, magic, CRC, attributes, codec and count. It does not
// decompress, so it says nothing about the single records, and it does not
// allocate unless it refuses.
//
// maxBytes is the topic's max_batch_bytes; zero or less means no limit.
//
// Errors, in the order of the checks: CORRUPT_MESSAGE (length),
// UNSUPPORTED_FOR_MESSAGE_FORMAT (magic), MESSAGE_TOO_LARGE, CORRUPT_MESSAGE
// (CRC), INVALID_RECORD (attributes), UNSUPPORTED_COMPRESSION_TYPE,
// INVALID_RECORD (count). The CRC comes before all it covers, so that damage on
// the way is never reported as a fault of the producer.
func (b Batch) Validate(maxBytes int) error {
	if err := b.checkLength(); err != nil {
		return err
	}
	if maxBytes > 0 && len(b) > maxBytes {
		return errcode.New(errcode.MessageTooLarge,
			"record batch of %d bytes is over the topic's limit of %d; send smaller batches or raise max_batch_bytes", len(b), maxBytes)
	}
	if err := b.CheckCRC(); err != nil {
		return err
	}
	if err := b.checkAttributes(); err != nil {
		return err
	}
	return b.checkCount(len(b.Records()))
}

// checkLength demands magic 2 and that b is exactly one batch, long enough for
// every other method.
func (b Batch) checkLength() error {
	size, err := PeekSize(b)
	if err != nil {
		return err
	}
	if size != len(b) {
		return errcode.New(errcode.CorruptMessage,
			"record batch claims %d bytes but has %d; pass exactly one whole batch", size, len(b))
	}
	return nil
}

// CheckCRC compares the stored CRC-32C with the bytes. Error: CORRUPT_MESSAGE.
func (b Batch) CheckCRC() error {
	return b.compareCRC(crc32.Checksum(b[crcStart:], castagnoli))
}

// compareCRC compares the stored CRC-32C with that of the bytes.
func (b Batch) compareCRC(computed uint32) error {
	if stored := b.CRC(); stored != computed {
		return errcode.New(errcode.CorruptMessage,
			"record batch has CRC %08x but its bytes give %08x; it was damaged, send it again", stored, computed)
	}
	return nil
}

// checkAttributes refuses what the batch's flags ask for and logbroker lacks.
func (b Batch) checkAttributes() error {
	if a := b.Attributes(); a&unsupportedAttributes != 0 {
		return errcode.New(errcode.InvalidRecord,
			"record batch has attributes %#04x; only the codec in bits 0–2 is supported, no transactions or control batches", uint16(a))
	}
	if c := b.Codec(); !c.Known() {
		return errcode.New(errcode.UnsupportedCompression,
			"record batch is compressed by unknown codec %d; use none, gzip, snappy, lz4 or zstd", int8(c))
	}
	return nil
}

// checkCount demands count = lastOffsetDelta + 1 > 0 (offsets are dense, and
// the broker advances by what the header says) and, where the records are not
// compressed, room for that many in the n bytes that the records take.
func (b Batch) checkCount(n int) error {
	count, last := b.Count(), b.LastOffsetDelta()
	if count <= 0 || last != count-1 {
		return errcode.New(errcode.InvalidRecord,
			"record batch claims %d records and last offset delta %d; the count must be positive and one more than the delta", count, last)
	}
	if n == 0 || (b.Codec() == None && n/recordSizeMin < int(count)) {
		return errcode.New(errcode.InvalidRecord,
			"record batch claims %d records in %d bytes; a record takes at least %d, build the batch anew", count, n, recordSizeMin)
	}
	return nil
}
