// Command testlog reads what `go test -json` prints and shows what people want to
// see of it: one line a package, the whole output of what failed, and at the end
// every test that was skipped, with its reason, counted. Without -v `go test` hides
// those. CI's race tests go through it.
//
// It judges nothing: whether the tests passed is go test's exit status.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	if err := show(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testlog:", err)
		os.Exit(1)
	}
}

// event is a line of `go test -json`; see `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
}

// key names a test; without a test the package itself.
type key struct{ pkg, test string }

// shown is what came in so far.
type shown struct {
	out     io.Writer
	outputs map[key][]string // of what has not ended
	skipped []string
}

// lineBytesMax bounds a line: a test's output comes in pieces far shorter.
const lineBytesMax = 16 << 20

// show copies what matters from in to out.
func show(in io.Reader, out io.Writer) error {
	s := &shown{out: out, outputs: map[key][]string{}}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, lineBytesMax)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(out, lines.Text()) // go's own words
			continue
		}
		s.take(e)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading the tests' output: %w", err)
	}
	s.unended()
	slices.Sort(s.skipped)
	fmt.Fprintf(out, "%d tests were skipped\n%s", len(s.skipped), strings.Join(s.skipped, ""))
	return nil
}

func (s *shown) take(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "output":
		s.outputs[k] = append(s.outputs[k], e.Output)
	case "pass", "fail", "skip":
		s.end(k, e.Action)
	}
}

// end shows what ended, as far as it matters.
func (s *shown) end(k key, how string) {
	output := s.outputs[k]
	delete(s.outputs, k)
	switch {
	case how == "fail":
		fmt.Fprint(s.out, strings.Join(output, ""))
	case k.test == "" && how == "pass" && len(output) > 0:
		fmt.Fprint(s.out, output[len(output)-1]) // ok and the time
	case k.test != "" && how == "skip":
		s.skipped = append(s.skipped, fmt.Sprintf("  %s %s: %s\n", k.pkg, k.test, reason(output)))
	}
}

// reason returns what a skipped test said.
func reason(output []string) string {
	var said []string
	for _, line := range output {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			said = append(said, line)
		}
	}
	return strings.Join(said, " ")
}

// unended shows the tests that were cut off, by a panic or a time-out.
func (s *shown) unended() {
	for k, output := range s.outputs {
		if k.test != "" {
			fmt.Fprintf(s.out, "=== %s %s did not end\n%s", k.pkg, k.test, strings.Join(output, ""))
		}
	}
}
