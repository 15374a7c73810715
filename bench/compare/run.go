package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"logbroker/bench/load"
	"logbroker/bench/procs"
)

// Entrant is one of the systems that are compared.
type Entrant struct {
	System string   // as its turns name it
	Path   string   // the program that does a turn: Spec on stdin, Turn on stdout
	Args   []string // its arguments
	// Without are phases of the Spec that the system does not do.
	Without []string
}

// Plan says what to run.
type Plan struct {
	Spec     load.Spec // Dir is chosen per turn, below Dir of the Plan
	Entrants []Entrant
	Rounds   int
	Dir      string // an existing directory for the systems' data; "" is the system's own
	// TurnTimeout ends a turn that hangs; it then counts as failed.
	TurnTimeout time.Duration
	Stderr      io.Writer // takes what the turns' processes say; nil: nothing
	// Before and After are told every turn. nil: not.
	Before func(round int, system string)
	After  func(Row)
}

// stopGrace is how long a turn's process gets to stop its brokers.
const stopGrace = 60 * time.Second

// Run does all rounds. A turn that fails is a Row that says why, and the rounds
// go on. When ctx ends, the rounds that were done are returned with its error.
func Run(ctx context.Context, p Plan) ([]Row, []load.Turn, error) {
	var rows []Row
	var turns []load.Turn
	for round := 1; round <= p.Rounds; round++ {
		for _, entrant := range p.Entrants {
			if err := ctx.Err(); err != nil {
				return rows, turns, fmt.Errorf("the comparison was ended in round %d: %w", round, err)
			}
			if p.Before != nil {
				p.Before(round, entrant.System)
			}
			turn, err := p.turn(ctx, entrant)
			row := newRow(round, entrant, turn, err)
			if turn != nil {
				row.Turn = pointer(len(turns))
				turns = append(turns, *turn)
			}
			rows = append(rows, row)
			if p.After != nil {
				p.After(row)
			}
		}
	}
	return rows, turns, nil
}

// turn runs one process. A Turn beside an error is what was measured before.
func (p *Plan) turn(ctx context.Context, entrant Entrant) (*load.Turn, error) {
	spec := p.Spec
	spec.Phases = slices.DeleteFunc(slices.Clone(spec.Phases), func(phase string) bool { return slices.Contains(entrant.Without, phase) })
	var err error
	if spec.Dir, err = os.MkdirTemp(p.Dir, "logbroker-bench-"+entrant.System+"-"); err != nil {
		return nil, fmt.Errorf("making a data directory: %w", err)
	}
	turn, err := p.process(ctx, entrant, spec)
	if removed := os.RemoveAll(spec.Dir); removed != nil {
		err = errors.Join(err, fmt.Errorf("removing the data directory: %w", removed))
	}
	return turn, err
}

func (p *Plan) process(ctx context.Context, entrant Entrant, spec load.Spec) (*load.Turn, error) {
	in, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encoding the spec: %w", err)
	}
	var out bytes.Buffer
	child, err := procs.Start(procs.Command{Path: entrant.Path, Args: entrant.Args, Stdin: bytes.NewReader(in), Stdout: &out, Stderr: p.Stderr})
	if err != nil {
		return nil, err
	}
	limit := time.NewTimer(p.TurnTimeout)
	defer limit.Stop()
	select {
	case <-child.Done():
	case <-ctx.Done():
		err = ctx.Err()
	case <-limit.C:
		err = fmt.Errorf("not done after %s", p.TurnTimeout)
	}
	if err != nil {
		err = errors.Join(err, child.Stop(stopGrace)) // what it wrote is read all the same
	} else {
		err = child.Err()
	}
	return decodeTurn(out.Bytes(), err)
}

// decodeTurn reads what a process wrote before it ended with err.
func decodeTurn(out []byte, err error) (*load.Turn, error) {
	var turn load.Turn
	if broken := json.Unmarshal(out, &turn); broken != nil {
		if err == nil {
			err = fmt.Errorf("reading its turn: %w", broken)
		}
		return nil, err
	}
	if err == nil && turn.Interrupted {
		err = errors.New("it was interrupted")
	}
	return &turn, err
}

func pointer[T any](v T) *T { return &v }
