package damage

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// played is a cell as the state file has it.
type played struct {
	Outcome string `json:"outcome"`
	Detail  string `json:"detail"`
	Commit  string `json:"commit"`
}

// load returns the cells of a run, those that were played before with what became
// of them.
func load(o Options) (cells []*cell, err error) {
	before := map[string]played{}
	raw, err := os.ReadFile(o.State)
	switch {
	case o.State == "", errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(raw, &before); err != nil {
			return nil, fmt.Errorf("%s is no state of a run: %w", o.State, err)
		}
	}
	for _, c := range matrix() {
		if strings.Contains(c.name(), o.Only) {
			p := before[c.name()]
			c.outcome, c.detail, c.commit = p.Outcome, p.Detail, p.Commit
			cells = append(cells, c)
		}
	}
	return cells, nil
}

// save replaces the file in one step. It keeps what other runs, of other cells,
// have left in it.
func save(o Options, cells []*cell) error {
	if o.State == "" {
		return nil
	}
	everything := o
	everything.Only = ""
	all, err := load(everything)
	if err != nil {
		return err
	}
	state := map[string]played{}
	for _, c := range append(all, cells...) {
		if !c.open() {
			state[c.name()] = played{Outcome: c.outcome, Detail: c.detail, Commit: c.commit}
		}
	}
	raw, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.State+".tmp", append(raw, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(o.State+".tmp", o.State)
}

// commits are those that the cells were played with, each once.
func commits(cells []*cell) string {
	var out []string
	for _, c := range cells {
		if c.commit != "" && !slices.Contains(out, c.commit) {
			out = append(out, c.commit)
		}
	}
	return strings.Join(out, ",")
}
