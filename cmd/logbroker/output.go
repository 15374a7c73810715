package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"

	"gopkg.in/yaml.v3"

	"logbroker/internal/cli"
)

// outputFormat is the value of -o. Empty is the command's own default.
type outputFormat string

const (
	outputDefault outputFormat = ""
	outputTable   outputFormat = "table"
	outputWide    outputFormat = "wide"
	outputJSON    outputFormat = "json"
	outputYAML    outputFormat = "yaml"
)

// String returns the format as typed.
func (o *outputFormat) String() string { return string(*o) }

// Type names the value in the help.
func (o *outputFormat) Type() string { return "format" }

// Set takes one of the four formats.
func (o *outputFormat) Set(s string) error {
	switch f := outputFormat(s); f {
	case outputTable, outputWide, outputJSON, outputYAML:
		*o = f
		return nil
	}
	return fmt.Errorf("unknown format %q; use table, wide, json or yaml", s)
}

// table writes aligned columns.
type table struct {
	w    *tabwriter.Writer
	wide bool
	app  *app
}

// row writes one line; nil pointers are shown as "-".
func (t *table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, cell(c))
	}
	fmt.Fprintln(t.w)
}

func (t *table) printf(format string, args ...any) { fmt.Fprintf(t.w, format, args...) }

func cell(c any) string {
	v := reflect.ValueOf(c)
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return "-"
		}
		v = v.Elem()
	}
	if ids, ok := v.Interface().([]uint64); ok {
		return join(ids)
	}
	if s := fmt.Sprint(v.Interface()); s != "" {
		return s
	}
	return "-"
}

func join(ids []uint64) string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = strconv.FormatUint(id, 10)
	}
	return strings.Join(out, ",")
}

// emit prints v, a pointer, as -o says; show writes the table. Lists and maps
// that are nil are printed empty, never as null.
func (a *app) emit(v any, show func(*table)) error {
	switch a.globals.output {
	case outputJSON:
		return writeJSON(a.stdout, v, "  ")
	case outputYAML:
		return writeYAML(a.stdout, v)
	}
	// The table is gathered first, so that a closed pipe is seen once and
	// nothing is shown by halves.
	var text bytes.Buffer
	t := &table{w: tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0), wide: a.globals.output == outputWide, app: a}
	show(t)
	if err := t.w.Flush(); err != nil {
		return err
	}
	_, err := a.stdout.Write(text.Bytes())
	return err
}

// emitEach is emit for a command that prints again and again: JSON then takes
// one line.
func (a *app) emitEach(v any, show func(*table)) error {
	if a.globals.output == outputJSON {
		return writeJSON(a.stdout, v, "")
	}
	if a.globals.output == outputYAML {
		if _, err := io.WriteString(a.stdout, "---\n"); err != nil {
			return err
		}
	}
	return a.emit(v, show)
}

func marshal(v any, indent string) ([]byte, error) {
	fillNil(reflect.ValueOf(v))
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	err := e.Encode(v)
	return b.Bytes(), err
}

func writeJSON(w io.Writer, v any, indent string) error {
	b, err := marshal(v, indent)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// writeYAML writes v with the field names of its JSON form, which is YAML
// already except for its looks.
func writeYAML(w io.Writer, v any) error {
	b, err := marshal(v, "")
	if err != nil {
		return err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(b, &node); err != nil {
		return err
	}
	blockStyle(&node)
	return encodeYAML(w, &node)
}

func encodeYAML(w io.Writer, v any) error {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

func blockStyle(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// fillNil makes nil slices and maps below v empty ones.
func fillNil(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			fillNil(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fillNil(v.Field(i))
		}
	case reflect.Slice:
		if v.IsNil() && v.CanSet() {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		}
		for i := range v.Len() {
			fillNil(v.Index(i))
		}
	case reflect.Map:
		if v.IsNil() && v.CanSet() {
			v.Set(reflect.MakeMap(v.Type()))
		}
	}
}

// streamFormat checks -o for a command that prints records one by one: JSON or
// its own text.
func (a *app) streamFormat(command string) (jsonLines bool, err error) {
	switch a.globals.output {
	case outputDefault, outputTable:
		return false, nil
	case outputJSON:
		return true, nil
	}
	return false, cli.Usage("%s prints text or -o json, not -o %s", command, a.globals.output)
}

// bytesText shows a size in the largest binary unit that leaves it readable.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, u := float64(n), 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	if u == 0 {
		return strconv.FormatInt(n, 10) + " B"
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " " + units[u]
}

// size shows a size for reading, or exactly with -o wide.
func (t *table) size(n int64) string {
	if t.wide {
		return strconv.FormatInt(n, 10)
	}
	return bytesText(n)
}

// Colours of a terminal.
const (
	green = "\x1b[32m"
	red   = "\x1b[31m"
	plain = "\x1b[0m"
)

// paint colours text where stdout is a terminal and colour is wanted.
func (a *app) paint(colour, text string) string {
	if !a.stdoutTerminal || a.globals.noColor || a.getenv("NO_COLOR") != "" {
		return text
	}
	return colour + text + plain
}
