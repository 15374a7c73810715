package load

// Ceiling is what the machine does by itself, measured just before the load: an
// absolute figure means something only beside it. A figure is 0 where it could
// not be measured.
type Ceiling struct {
	DiskWriteMBPerS float64 `json:"disk_write_mb_per_s"` // one file, 1 MiB writes, and a sync at the end
	SyncP50Ms       float64 `json:"sync_p50_ms"`         // of a 64 KiB write and its fdatasync
	SyncP99Ms       float64 `json:"sync_p99_ms"`
	ZstdMBPerS      float64 `json:"zstd_mb_per_s"` // one core, the fastest level, batches of the load's own payload
	ZstdRatio       float64 `json:"zstd_ratio"`    // to one
	CRC32CMBPerS    float64 `json:"crc32c_mb_per_s"`
	CopyMBPerS      float64 `json:"copy_mb_per_s"`     // one core, memory to memory, more than its caches hold
	LoopbackMBPerS  float64 `json:"loopback_mb_per_s"` // one TCP connection, sender and receiver in one process
}

// CeilingFigure is one figure of a Ceiling in words.
type CeilingFigure struct {
	What, Unit string
	Value      float64
}

// Figures are the figures in the order in which they are shown. MB are 10^6
// bytes.
func (c *Ceiling) Figures() []CeilingFigure {
	return []CeilingFigure{
		{"disk, one file in sequence, synced at the end", "MB/s", c.DiskWriteMBPerS},
		{"64 KiB write and fdatasync, p50", "ms", c.SyncP50Ms},
		{"the same, p99", "ms", c.SyncP99Ms},
		{"zstd fastest on this payload, one core", "MB/s", c.ZstdMBPerS},
		{"its ratio", "to 1", c.ZstdRatio},
		{"CRC-32C, one core", "MB/s", c.CRC32CMBPerS},
		{"memory copy, one core", "MB/s", c.CopyMBPerS},
		{"loopback TCP, one connection", "MB/s", c.LoopbackMBPerS},
	}
}

// Sample is n bytes of the payload of s, as its records follow each other.
func (s *Spec) Sample(n int) []byte { return newPayload(s, n).data[:n] }
