package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"logbroker/internal/cli"
)

// memory is a System that keeps its records in this process.
type memory struct {
	mu      sync.Mutex
	values  [][]byte                    // guarded by mu
	news    chan struct{}               // closed and replaced with every record; guarded by mu
	refuse  func(n int) error           // of record n, from 1; nil: none is refused
	take    func(ctx context.Context)   // how long Send takes; nil: no time
	stored  func(n int64) int64         // what Stored answers; nil: the truth
	running atomic.Int64                // Start without Stop
	starts  func(context.Context) error // nil: Start succeeds
	repeats bool                        // the first record is received twice
}

func (*memory) Name() string                { return "memory" }
func (*memory) Settings() map[string]string { return map[string]string{"disk": "none"} }
func (*memory) Processes() []int            { return []int{os.Getpid()} }

func (s *memory) Start(ctx context.Context, _ Spec) error {
	s.news = make(chan struct{})
	s.running.Add(1)
	if s.starts != nil {
		return s.starts(ctx)
	}
	return nil
}

func (s *memory) Stop() error {
	s.running.Add(-1)
	return nil
}

func (s *memory) Stored(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := int64(len(s.values))
	if s.stored != nil {
		n = s.stored(n)
	}
	return n, nil
}

func (s *memory) NewSender(context.Context, int) (Sender, error) { return &memorySender{s: s}, nil }
func (s *memory) NewReceiver(_ context.Context, n int, _ bool) (Receiver, error) {
	return &memoryReceiver{s: s, idle: n > 0, repeats: n == 0 && s.repeats}, nil
}

type memorySender struct {
	s *memory
	n int
}

func (m *memorySender) Send(ctx context.Context, r Record, done func(error)) {
	if m.s.take != nil {
		m.s.take(ctx)
	}
	m.n++
	if m.s.refuse != nil {
		if err := m.s.refuse(m.n); err != nil {
			done(err)
			return
		}
	}
	m.s.mu.Lock()
	m.s.values = append(m.s.values, slices.Clone(r.Value))
	close(m.s.news)
	m.s.news = make(chan struct{})
	m.s.mu.Unlock()
	done(nil)
}

func (*memorySender) Flush(context.Context) error { return nil }
func (*memorySender) Close() error                { return nil }

// memoryReceiver has all records, or none where it is idle, and the first one
// twice where it repeats.
type memoryReceiver struct {
	s             *memory
	idle, repeats bool
}

func (m *memoryReceiver) Receive(ctx context.Context, visit func([][]byte)) error {
	for at := 0; ; {
		m.s.mu.Lock()
		values, news := m.s.values[at:], m.s.news
		m.s.mu.Unlock()
		if at += len(values); len(values) > 0 && !m.idle {
			visit(values)
		}
		if m.repeats && len(values) > 0 {
			m.repeats = false
			visit(values[:1])
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		}
	}
}

func (*memoryReceiver) Close() error { return nil }

// slowly makes Send take d.
func slowly(d time.Duration) func(context.Context) {
	return func(ctx context.Context) { systemClock{}.SleepUntil(ctx, time.Now().Add(d)) }
}

func shortSpec(phases ...string) Spec {
	s := Defaults()
	s.Phases, s.RecordSize, s.Duration, s.Warmup = phases, 64, 0.3, 0.1
	s.Producers, s.Consumers, s.Keys, s.Topics, s.Partitions = 2, 2, 10, 2, 2
	return s
}

func TestEveryPhaseIsMeasured(t *testing.T) {
	sys := &memory{take: slowly(200 * time.Microsecond)}
	var ticks atomic.Int64
	spec := shortSpec(PhaseProduce, PhaseLatency, PhaseAlone, PhaseConsume, PhaseE2E)
	spec.Payload = PayloadJSON
	turn, err := RunTurn(t.Context(), sys, spec, func(Tick) { ticks.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	if sys.running.Load() != 0 || len(turn.Phases) != 5 || turn.Settings["disk"] != "none" || turn.Interrupted {
		t.Fatalf("running %d, turn %+v", sys.running.Load(), turn)
	}
	for i, r := range turn.Phases {
		if r.Phase != spec.Phases[i] || r.Records < 5 || r.Bytes < 50*r.Records || r.Seconds <= 0 || r.RecordsPerS <= 0 || len(r.Series) == 0 {
			t.Errorf("%+v", r)
		}
		if hasLatency := r.Phase != PhaseConsume; (r.P99Ms > 0) != hasLatency || (r.Histogram != "") != hasLatency {
			t.Errorf("%s: p99 %.3f ms", r.Phase, r.P99Ms)
		}
		if len(r.PerProcess) != 1 || r.RSSBytesMax < 1<<20 || r.Errors != 0 {
			t.Errorf("%s: per process %+v, RSS %d, %d errors", r.Phase, r.PerProcess, r.RSSBytesMax, r.Errors)
		}
		sum := int64(0)
		for _, s := range r.Series {
			sum += s.Records
		}
		if sum != r.Records {
			t.Errorf("%s: the series has %d records of %d", r.Phase, sum, r.Records)
		}
	}
	produced, latency := turn.Phases[0], turn.Phases[1]
	if produced.Seconds != 0.3 || latency.TargetRate != produced.RecordsPerS/2 {
		t.Errorf("produce took %g s, latency ran at %g of %g/s", produced.Seconds, latency.TargetRate, produced.RecordsPerS)
	}
	if ticks.Load() < 5 {
		t.Errorf("%d ticks", ticks.Load())
	}
}

func TestExactlySoManyRecordsAreMeasured(t *testing.T) {
	spec := shortSpec(PhaseProduce, PhaseConsume)
	spec.Records, spec.Duration = 1001, 0
	sys := &memory{}
	turn, err := RunTurn(t.Context(), sys, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := turn.Phases[0]; r.Records != 1001 {
		t.Errorf("%d records, want 1001", r.Records)
	}
	if r := turn.Phases[1]; r.Records != int64(len(sys.values)) || r.Records <= 1001 {
		t.Errorf("%d records read of %d, those of the warm-up among them", r.Records, len(sys.values))
	}
}

func TestInterruptKeepsWhatWasMeasured(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	spec := shortSpec(PhaseProduce, PhaseConsume)
	spec.Duration = 3600
	turn, err := RunTurn(ctx, &memory{take: slowly(time.Millisecond)}, spec, func(tick Tick) {
		if !tick.Warmup && tick.Records > 0 {
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !turn.Interrupted || len(turn.Phases) != 1 || turn.Phases[0].Records == 0 || turn.Phases[0].Seconds > 60 {
		t.Errorf("%+v", turn)
	}
}

func TestFailedRecordsAreCountedAndQuoted(t *testing.T) {
	spec := shortSpec(PhaseProduce)
	sys := &memory{take: slowly(100 * time.Microsecond), refuse: func(n int) error {
		if n%10 == 0 {
			return errors.New("no room")
		}
		return nil
	}}
	turn, err := RunTurn(t.Context(), sys, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := turn.Phases[0]; r.Errors == 0 || r.FirstError != "no room" || r.Records == 0 {
		t.Errorf("%+v", r)
	}
	spec.Duration = 3600
	sys = &memory{refuse: func(int) error { return errors.New("gone") }}
	if _, err = RunTurn(t.Context(), sys, spec, nil); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("a phase in which everything fails ended with %v", err)
	}
}

func TestFewerRecordsStoredThanAckedIsALoss(t *testing.T) {
	sys := &memory{stored: func(n int64) int64 { return n - 1 }}
	_, err := RunTurn(t.Context(), sys, shortSpec(PhaseProduce, PhaseConsume), nil)
	if err == nil || !strings.Contains(err.Error(), "were acked, but only") {
		t.Errorf("err = %v", err)
	}
}

func TestARecordThatCameTwiceIsADuplicate(t *testing.T) {
	turn, err := RunTurn(t.Context(), &memory{take: slowly(time.Millisecond), repeats: true}, shortSpec(PhaseE2E), nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := turn.Phases[0]; r.Duplicates != 1 {
		t.Errorf("%d duplicates, want 1", r.Duplicates)
	}
}

func TestASystemThatDoesNotStartIsStopped(t *testing.T) {
	sys := &memory{starts: func(context.Context) error { return errors.New("the port is busy") }}
	_, err := RunTurn(t.Context(), sys, shortSpec(PhaseProduce), nil)
	if err == nil || !strings.Contains(err.Error(), "the port is busy") || sys.running.Load() != 0 {
		t.Errorf("err = %v, running %d", err, sys.running.Load())
	}
}

func TestSpecNamesEveryFaultAndItsFlag(t *testing.T) {
	s := Spec{Phases: []string{"sprint"}, Payload: "xml", RecordSize: 1, Keys: -1, TargetRate: -1}
	err := s.Validate()
	for _, want := range []string{"sprint", "--payload", "--record-size", "--keys", "--partitions", "--producers", "--target-rate", "--duration"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in %v", want, err)
		}
	}
	if s := Defaults(); s.Validate() != nil {
		t.Errorf("the defaults: %v", s.Validate())
	}
}

func TestDriverReadsASpecAndWritesATurn(t *testing.T) {
	spec, err := json.Marshal(shortSpec(PhaseProduce))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := drive(t.Context(), &memory{}, bytes.NewReader(spec), &out, nil); err != nil {
		t.Fatal(err)
	}
	var turn Turn
	if err := json.Unmarshal(out.Bytes(), &turn); err != nil || turn.System != "memory" || len(turn.Phases) != 1 {
		t.Errorf("%v, %+v", err, turn)
	}
	for _, bad := range []string{`{"speed":1}`, `{"partitions":0}`, ``} {
		var coded *cli.ExitError
		if err := drive(t.Context(), &memory{}, strings.NewReader(bad), &out, nil); !errors.As(err, &coded) || coded.Code != cli.ExitUsage {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
