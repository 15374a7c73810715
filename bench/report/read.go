package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"logbroker/bench/compare"
	"logbroker/bench/load"
)

// File is one JSON file of the bench tool.
type File struct {
	Name string // without directory and ending
	// Document has Rounds where the file is of the command compare; of any other
	// command it has its part of load.Document alone.
	compare.Document
}

// Read reads a file that bench has written with --json. An error names the file.
func Read(path string) (File, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return File{}, fmt.Errorf("cannot read the results: %w", err)
	}
	f := File{Name: strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))}
	if err := json.Unmarshal(raw, &f.Document); err != nil {
		return File{}, fmt.Errorf("%s is not a result of bench: %w", path, err)
	}
	if f.Format != load.DocumentFormat && f.Format != compare.DocumentFormat {
		return File{}, fmt.Errorf("%s is not a result of bench: its format is %q; write one with bench produce --json FILE", path, f.Format)
	}
	return f, nil
}

func (f *File) compares() bool { return f.Format == compare.DocumentFormat }

// hasRounds reports whether the file sets turns against each other: a comparison,
// or a sweep.
func (f *File) hasRounds() bool { return len(f.Rounds) > 0 }

// commandLine is the command line that wrote the file, without what is of no
// matter to its figures: where files go.
func (f *File) commandLine() string {
	words := []string{"go run ./bench"}
	for i := 0; i < len(f.Args); i++ {
		name, _, joined := strings.Cut(f.Args[i], "=")
		if !slices.Contains([]string{"--json", "--csv", "--hdr", "--dir", "--broker", "--markdown"}, name) {
			words = append(words, f.Args[i])
		} else if !joined {
			i++ // its value
		}
	}
	return strings.Join(words, " ")
}

// spec is what was done; of a sweep, at its first point.
func (f *File) spec() load.Spec {
	if f.compares() {
		return f.Settings.Spec
	}
	if len(f.Turns) > 0 {
		return f.Turns[0].Spec
	}
	return load.Spec{}
}

// work says in a few words what was done.
func (f *File) work() string {
	s := f.spec()
	producers := "1 producer"
	if s.Producers != 1 {
		producers = fmt.Sprintf("%d producers", s.Producers)
	}
	return fmt.Sprintf("%d B %s, %d partitions, %s, compression %s", s.RecordSize, s.Payload, s.Topics*s.Partitions, producers, s.Compression)
}

// phase returns a turn's result of the phase, nil where there is none.
func phase(t *load.Turn, name string) *load.Result {
	for i := range t.Phases {
		if t.Phases[i].Phase == name {
			return &t.Phases[i]
		}
	}
	return nil
}

// series is the turns that are shown as one: a system's rounds, or one point of
// a sweep.
type series struct {
	name  string
	turns []*load.Turn
}

func (f *File) series() []series {
	var all []series
	at := make(map[string]int)
	if f.hasRounds() { // a system keeps its colour, also when its first turn failed
		for i, system := range f.Systems() {
			at[system], all = i, append(all, series{name: system})
		}
	}
	for i := range f.Turns {
		t := &f.Turns[i]
		name := t.System
		if t.Point != "" {
			name = t.Point
		}
		if _, known := at[name]; !known {
			at[name] = len(all)
			all = append(all, series{name: name})
		}
		all[at[name]].turns = append(all[at[name]].turns, t)
	}
	return all
}
