package load

import (
	"context"
	"errors"
)

// RunTurn starts sys, runs the phases of spec in order, and stops sys. progress
// may be nil. When ctx ends, the phase under way ends early, what was measured
// until then is returned, and Turn.Interrupted is set; that is no error.
//
// Errors: of the Spec; of the System, with what was measured before.
func RunTurn(ctx context.Context, sys System, spec Spec, progress Progress) (Turn, error) {
	return Turn{}, errors.New("not built yet")
}
