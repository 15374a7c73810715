package commitlog

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/recordbatch"
	"logbroker/internal/storage"
	"logbroker/internal/storage/storagetest"
)

// one appends a batch of n records at the log's end.
func one(t testing.TB, l *Log, n, valueBytes int, tsMs, appendMs int64, cfg Config) {
	t.Helper()
	e := Entry{Batch: batch(t, n, valueBytes, tsMs, 'v'), BaseOffset: l.End(), AppendTimeMs: appendMs}
	must(t, l.Append([]Entry{e}, cfg))
}

func TestRollsIsAFunctionOfSegmentEntryAndConfig(t *testing.T) {
	at := func(length, firstMs int64) *extent {
		return &extent{footer: footer{length: length, firstMs: firstMs}}
	}
	for _, c := range []struct {
		name     string
		active   *extent
		size     int
		appendMs int64
		cfg      Config
		want     bool
	}{
		{"an empty segment never rolls", at(0, 0), 1000, 1 << 40, Config{10, time.Second}, false},
		{"exactly full does not roll", at(900, 0), 100, 0, Config{SegmentBytes: 1000}, false},
		{"one byte more rolls", at(900, 0), 101, 0, Config{SegmentBytes: 1000}, true},
		{"no bounds", at(1<<40, 0), 100, 1 << 40, Config{}, false},
		{"younger than the age", at(1, 5000), 1, 5999, Config{SegmentAge: time.Second}, false},
		{"of the age", at(1, 5000), 1, 6000, Config{SegmentAge: time.Second}, true},
	} {
		if got := rolls(c.active, c.size, c.appendMs, c.cfg); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestAppendRefusesWhatWouldBreakTheLogAndStaysUsable(t *testing.T) {
	l := openMem(t, newMem(t), State{})
	good := batch(t, 3, 10, 0, 'g')
	for name, e := range map[string]Entry{
		"gap":        {Batch: good, BaseOffset: 1},
		"half":       {Batch: good[:len(good)-1]},
		"two":        {Batch: append(slices.Clone(good), good...)},
		"short":      {Batch: good[:20]},
		"wrong kind": {Batch: append(slices.Clone(good[:16]), make([]byte, 80)...)},
	} {
		if err := l.Append([]Entry{{Batch: good}, {Batch: good, BaseOffset: 3}, e}, Config{}); err == nil {
			t.Errorf("%s: appended", name)
		}
		if l.End() != 0 {
			t.Fatalf("%s: entries before the bad one were appended", name)
		}
	}
	must(t, l.Append([]Entry{{Batch: good}}, Config{}))
	must(t, l.Append(nil, Config{}))
}

func TestAppendLeavesTheEntriesBytesAlone(t *testing.T) {
	l := openMem(t, newMem(t), State{})
	b := batch(t, 3, 10, 0, 'g')
	before := bytes.Clone(b)
	must(t, l.Append([]Entry{{Batch: b, Epoch: 9}, {Batch: b, BaseOffset: 3, Epoch: 9}}, Config{}))
	if !bytes.Equal(b, before) {
		t.Fatal("Append has written to the batch")
	}
	got, err := l.Read(nil, 4, 6, 1)
	must(t, err)
	if r := recordbatch.Batch(got); r.BaseOffset() != 3 || r.PartitionLeaderEpoch() != 9 {
		t.Fatalf("stored at offset %d with epoch %d", r.BaseOffset(), r.PartitionLeaderEpoch())
	}
}

func TestOneWritePerCallAndSegment(t *testing.T) {
	var writes atomic.Int64
	fs := storagetest.Wrap(newMem(t), func(op storagetest.Op) (int, error) {
		if op.Kind == storagetest.Write {
			writes.Add(1)
		}
		return 0, nil
	})
	l := openMem(t, fs, State{})
	var es []Entry
	for i := range int64(50) {
		es = append(es, Entry{Batch: batch(t, 1, 100, 0, 'w'), BaseOffset: i})
	}
	must(t, l.Append(es, Config{SegmentBytes: int64(25 * len(es[0].Batch))}))
	if n, segments := writes.Load(), len(l.Segments()); n != 2 || segments != 2 {
		t.Fatalf("%d writes to %d segments", n, segments)
	}
}

func TestReadBounds(t *testing.T) {
	l := openMem(t, newMem(t), State{})
	for range 10 {
		one(t, l, 3, 50, 0, 0, Config{})
	}
	size := int(l.SizeBytes()) / 10
	l.Trim(4) // inside the second batch
	for _, c := range []struct {
		name        string
		offset, end int64
		maxBytes    int
		first, n    int64 // batches expected
	}{
		{"all", 4, 30, 1 << 20, 1, 9},
		{"the batch that holds the log start offset comes whole", 4, 30, 1, 1, 1},
		{"at least one batch", 6, 30, 0, 2, 1},
		{"exactly two", 6, 30, 2 * size, 2, 2},
		{"not two", 6, 30, 2*size - 1, 2, 1},
		{"inside a batch", 8, 30, 2 * size, 2, 2},
		{"last record", 29, 30, 1 << 20, 9, 1},
		{"never above end", 6, 12, 1 << 20, 2, 2},
		{"not even in part", 6, 14, 1 << 20, 2, 2},
		{"end above the log's", 27, 1 << 40, 1 << 20, 9, 1},
		{"at end", 12, 12, 1 << 20, 0, 0},
		{"above end", 14, 12, 1 << 20, 0, 0},
		{"at the log's end", 30, 30, 1 << 20, 0, 0},
	} {
		for range 2 { // the second time from a remembered position
			got, err := l.Read([]byte("dst"), c.offset, c.end, c.maxBytes)
			must(t, err)
			if string(got[:3]) != "dst" || len(got)-3 != int(c.n)*size {
				t.Fatalf("%s: %d bytes, want %d batches of %d", c.name, len(got)-3, c.n, size)
			}
			if c.n > 0 && recordbatch.Batch(got[3:]).BaseOffset() != 3*c.first {
				t.Fatalf("%s: begins at offset %d", c.name, recordbatch.Batch(got[3:]).BaseOffset())
			}
		}
	}
	for _, offset := range []int64{-1, 0, 3, 31, math.MaxInt64} {
		_, err := l.Read(nil, offset, 30, 1)
		want := OffsetRangeError{Offset: offset, LogStart: 4, End: 30}
		var got OffsetRangeError
		if !errors.As(err, &got) || got != want || errcode.Of(err) != errcode.OffsetOutOfRange {
			t.Errorf("offset %d: %v", offset, err)
		}
	}
}

// TestSequentialReadsReadTheFileOncePerCall counts the reads of a consumer that
// goes on where it stopped.
func TestSequentialReadsReadTheFileOncePerCall(t *testing.T) {
	var reads atomic.Int64
	fs := storagetest.Wrap(newMem(t), func(op storagetest.Op) (int, error) {
		if op.Kind == storagetest.Read {
			reads.Add(1)
		}
		return 0, nil
	})
	l := openMem(t, fs, State{})
	for range 200 {
		one(t, l, 1, 40, 0, 0, Config{})
	}
	calls := int64(0)
	for offset := int64(0); offset < l.End(); calls++ {
		b, err := l.Read(nil, offset, l.End(), 1000)
		must(t, err)
		offset += int64(len(b)) / (l.SizeBytes() / 200)
	}
	if reads.Load() != calls {
		t.Fatalf("%d reads of the file for %d calls", reads.Load(), calls)
	}
}

func TestReadOfABatchLargerThanTheRequestTakesASecondRead(t *testing.T) {
	l := openMem(t, newMem(t), State{})
	one(t, l, 1, 20, 0, 0, Config{})
	one(t, l, 1, 50_000, 0, 0, Config{})
	for _, maxBytes := range []int{0, 61, 100, 1000, 49_999} {
		b, err := l.Read(nil, 1, 2, maxBytes)
		must(t, err)
		if len(b) < 50_000 || recordbatch.Batch(b).BaseOffset() != 1 {
			t.Fatalf("maxBytes %d: %d bytes", maxBytes, len(b))
		}
	}
}

func TestOldSegmentsAreParkedAndReadAgain(t *testing.T) {
	mem := newMem(t)
	s := newStream(t, rand.New(rand.NewPCG(5, 5)), 200)
	l := openMem(t, mem, State{})
	for i := range s.entries {
		must(t, l.Append(s.entries[i:i+1], Config{SegmentBytes: 800}))
	}
	_, err := l.Sync()
	must(t, err)
	if n := len(l.Segments()); n < 3*openSegmentsMax {
		t.Fatalf("only %d segments", n)
	}
	for range 2 {
		checkContent(t, s, l)
		open := 0
		for _, seg := range l.view.Load().segments {
			if seg.file != nil {
				open++
			}
		}
		if open > openSegmentsMax {
			t.Fatalf("%d segments are open", open)
		}
	}
}

// TestReadersBesideTheWriter reads everywhere while segments are appended,
// rolled, synced, trimmed and removed, on the real file system and in memory.
func TestReadersBesideTheWriter(t *testing.T) {
	for name, o := range map[string]Options{
		"real":   {FS: storage.OS(), Dir: filepath.Join(t.TempDir(), "p")},
		"memory": {FS: newMem(t).FS, Dir: dir},
	} {
		t.Run(name, func(t *testing.T) { readersBesideTheWriter(t, o) })
	}
}

func readersBesideTheWriter(t *testing.T, o Options) {
	s := newStream(t, rand.New(rand.NewPCG(9, 9)), 400)
	o.IndexIntervalBytes = 300
	l, err := Open(o, State{})
	must(t, err)
	var done atomic.Bool
	var readers sync.WaitGroup
	for r := range uint64(4) {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(r, 4))
			for !done.Load() {
				readSomewhere(t, l, s, rng)
			}
		})
	}
	for i := 0; i < len(s.entries); {
		to := s.group(i, 5)
		must(t, s.append(l, i, to))
		i = to
		if i%7 == 0 {
			l.Trim(s.entries[i/2].BaseOffset)
			_, err := l.Sync()
			must(t, err)
			must(t, marked(l))
		}
	}
	done.Store(true)
	readers.Wait()
	must(t, marked(l))
	checkContent(t, s, l)
	must(t, l.Close()) // waits for what Marked began
	if len(l.trimmed) > 0 {
		t.Fatalf("%d segments were never removed", len(l.trimmed))
	}
}

// readSomewhere does one read or search at a random place and checks it.
func readSomewhere(t *testing.T, l *Log, s *stream, rng *rand.Rand) {
	start, end := l.LogStart(), l.End()
	if rng.IntN(8) == 0 {
		if _, _, _, err := l.OffsetForTimestamp(rng.Int64N(100_000), end); err != nil {
			t.Error(err)
		}
	}
	offset := start + rng.Int64N(end-start+1)
	got, err := l.Read(nil, offset, end, rng.IntN(3000))
	if err != nil && (!errors.As(err, new(OffsetRangeError)) || offset >= l.LogStart()) {
		t.Error(err)
	}
	for len(got) > 0 {
		b, rest, err := recordbatch.Parse(got)
		if err != nil || !bytes.Equal(b, s.stored[s.at(b.BaseOffset())]) {
			t.Errorf("the read at offset %d returned wrong bytes (%v)", offset, err)
			return
		}
		got = rest
	}
}

func TestAfterCloseEverythingIsRefused(t *testing.T) {
	l := openMem(t, newMem(t), State{})
	one(t, l, 1, 1, 0, 0, Config{})
	must(t, l.Close())
	_, readErr := l.Read(nil, 0, 1, 1)
	_, _, _, timeErr := l.OffsetForTimestamp(0, 1) //nolint:dogsled // only the error matters here
	_, syncErr := l.Sync()
	p := l.Pin()
	defer p.Close()
	pinErr := copyAll(p)
	appendErr := l.Append([]Entry{{Batch: batch(t, 1, 1, 0, 'x'), BaseOffset: 1}}, Config{})
	for i, err := range []error{readErr, timeErr, syncErr, pinErr, appendErr, marked(l)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
	l.Trim(1)
	if l.SizeBytes() != 0 || len(l.Segments()) != 0 {
		t.Error("a closed log still shows segments")
	}
}

// TestOffsetForTimestamp has timestamps that go up and down over several
// segments: 100 … 104 | 50 … 54 | 200 … 204 | 120 … 124.
func TestOffsetForTimestamp(t *testing.T) {
	for _, cfg := range []Config{{}, {SegmentBytes: 1}} {
		l := openMem(t, newMem(t), State{})
		for _, ts := range []int64{100, 50, 200, 120} {
			one(t, l, 5, 100, ts, 0, cfg)
		}
		_, err := l.Sync()
		must(t, err)
		for _, c := range []struct {
			trim, ts, end   int64
			offset, foundTs int64
			ok              bool
		}{
			{0, 0, 20, 0, 100, true},
			{0, 102, 20, 2, 102, true},
			{0, 105, 20, 10, 200, true},
			{0, 203, 20, 13, 203, true},
			{0, 203, 10, 0, 0, false},
			{0, 205, 20, 0, 0, false},
			{3, 50, 20, 3, 103, true},
			{5, 51, 20, 6, 51, true},
			{12, 0, 20, 12, 202, true},
			{15, 50, 20, 15, 120, true},
			{15, 125, 20, 0, 0, false},
			{20, 0, 20, 0, 0, false},
		} {
			l.Trim(c.trim)
			offset, ts, ok, err := l.OffsetForTimestamp(c.ts, c.end)
			must(t, err)
			if offset != c.offset || ts != c.foundTs || ok != c.ok {
				t.Errorf("cfg %v, %+v: %d, %d, %v", cfg, c, offset, ts, ok)
			}
		}
	}
}

func TestOffsetForTimestampOfRecordsThatCannotBeDecoded(t *testing.T) {
	l := openMem(t, newMem(t), State{})
	b := recordbatch.Batch(bytes.Repeat([]byte{0xff}, 100))
	good := batch(t, 4, 5, 70, 'x')
	copy(b, good[:recordbatch.HeaderSize])
	b[11] = 100 - 12          // length
	b.SetProducer(-1, -1, -1) // does the CRC again
	must(t, b.CheckCRC())     // a broker accepts it: it does not look inside
	one(t, l, 1, 1, 10, 0, Config{})
	must(t, l.Append([]Entry{{Batch: b, BaseOffset: 1}}, Config{}))
	offset, ts, ok, err := l.OffsetForTimestamp(60, 5)
	if offset != 1 || ts != 73 || !ok || err != nil {
		t.Fatalf("%d, %d, %v, %v", offset, ts, ok, err)
	}
}

func TestRetentionOffset(t *testing.T) {
	l := openMem(t, newMem(t), State{})
	for i := range int64(5) { // segments of one batch, one record each
		one(t, l, 1, 39, 0, 1000*(i+1), Config{SegmentBytes: 1})
	}
	size := l.SizeBytes() / 5
	for _, c := range []struct {
		name string
		q    RetentionQuery
		want int64
	}{
		{"no limits", RetentionQuery{NowMs: 1 << 50, End: 5}, 0},
		{"size keeps at least MaxBytes", RetentionQuery{MaxBytes: 2*size + 1, End: 5}, 2},
		{"size exactly", RetentionQuery{MaxBytes: 2 * size, End: 5}, 3},
		{"the active segment stays", RetentionQuery{MaxBytes: 1, End: 5}, 4},
		{"age", RetentionQuery{NowMs: 4001, MaxAge: 2 * time.Second, End: 5}, 2},
		{"age exactly", RetentionQuery{NowMs: 4000, MaxAge: 2 * time.Second, End: 5}, 1},
		{"age of all", RetentionQuery{NowMs: 1 << 50, MaxAge: time.Second, End: 5}, 4},
		{"not above the high watermark", RetentionQuery{NowMs: 1 << 50, MaxAge: time.Second, End: 3}, 3},
	} {
		if got := l.RetentionOffset(c.q); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	l.Trim(2)
	if got := l.RetentionOffset(RetentionQuery{MaxBytes: 1 << 40, End: 5}); got != 2 {
		t.Errorf("after a trim: %d", got)
	}
}

func TestTrimmedFilesGoOnlyBelowADurableStateAndWithoutReaders(t *testing.T) {
	mem := newMem(t)
	l := openMem(t, mem, State{})
	for range 6 {
		one(t, l, 1, 39, 0, 0, Config{SegmentBytes: 1})
	}
	_, err := l.Sync()
	must(t, err)
	logs := func() int {
		ls, err := list(l.place)
		must(t, err)
		return len(ls.bases)
	}
	l.Trim(2)
	must(t, marked(l))
	if logs() != 6 {
		t.Fatal("files went before a durable state had the log start offset")
	}
	p := l.Pin()
	l.Trim(4)
	_, err = l.Sync()
	must(t, err)
	must(t, marked(l))
	if logs() != 4 {
		t.Fatalf("%d files while a snapshot has the last four pinned", logs())
	}
	p.Close()
	p.Close()
	must(t, marked(l))
	if logs() != 2 {
		t.Fatalf("%d files at the end", logs())
	}
	l.Trim(100)
	if l.LogStart() != 6 || len(l.Segments()) != 1 {
		t.Fatalf("trimmed to %d with %d segments", l.LogStart(), len(l.Segments()))
	}
}

// TestReopenOnTheRealFileSystem cuts a real file and goes on behind the cut.
func TestReopenOnTheRealFileSystem(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "p"), IndexIntervalBytes: 300}
	s := newStream(t, rand.New(rand.NewPCG(21, 1)), 120)
	var st State
	for life := range 3 {
		l, err := Open(o, st)
		must(t, err)
		if l.End() != st.End || l.LogStart() != st.LogStart {
			t.Fatalf("life %d: opened [%d, %d), the state is %+v", life, l.LogStart(), l.End(), st)
		}
		checkContent(t, s, l)
		next := s.at(l.End())
		for i := next; i < next+30; i++ {
			must(t, s.append(l, i, i+1))
		}
		l.Trim(s.entries[next+10].BaseOffset)
		st, err = l.Sync()
		must(t, err)
		must(t, marked(l))
		for i := next + 30; i < next+50; i++ { // lost: no marker speaks of them
			must(t, s.append(l, i, i+1))
		}
		must(t, l.Close())
	}
	report, err := Verify(storage.OS(), o.Dir, VerifyOptions{State: &st})
	must(t, err)
	if len(report.Damage) > 0 {
		t.Fatal(report.Damage)
	}
}

func TestALogThatNobodyReadsLeavesThePageCacheAndKeepsItsBytes(t *testing.T) {
	var unread atomic.Bool
	l, err := Open(Options{Dir: filepath.Join(t.TempDir(), "p"), Unread: unread.Load}, State{})
	must(t, err)
	defer func() { must(t, l.Close()) }()
	// push runs the goroutine's round here, so that it is over when it returns.
	cfg := Config{SegmentBytes: 1 << 30}
	fill := func(rounds int) {
		for range rounds {
			one(t, l, 1, 64<<10, 1, 1, cfg)
			l.back.push()
		}
	}
	fill(4)
	if got := l.active.forgotten; got != 0 {
		t.Fatalf("%d bytes of a log that is read were given up", got)
	}
	unread.Store(true)
	fill(4)
	if got, end := l.active.forgotten, l.SizeBytes(); got == 0 || got >= end {
		t.Fatalf("%d of %d bytes were given up", got, end)
	}
	b, err := content(l, 0, 1<<20)
	must(t, err)
	if int64(len(b)) != l.SizeBytes() {
		t.Fatalf("%d bytes read, %d were written", len(b), l.SizeBytes())
	}
}
