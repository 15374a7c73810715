package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"logbroker/consumer"
	"logbroker/internal/cli"
	"logbroker/producer"
)

// recordFormat is a -f format: literals and verbs, in turn. It works both ways:
// produce splits its input by it, consume prints by it.
//
//	%t topic   %p partition   %o offset   %d timestamp, ms since 1970
//	%k key     %v value       %h headers, k:v joined by commas   %% a percent sign
//	\t tab   \n newline   \r carriage return   \\ backslash   \xHH a byte
type recordFormat struct {
	text string // as typed
	lead []byte // literal before the first verb
	// fields are the verbs, each with the literal after it.
	fields []formatField
}

type formatField struct {
	verb  byte
	after []byte
}

const formatVerbs = "tpokvhd"

// parseFormat reads a format. Errors are usage errors.
func parseFormat(text string) (*recordFormat, error) {
	f := &recordFormat{text: text}
	for i := 0; i < len(text); {
		literal, verb, n, err := formatToken(text[i:])
		if err != nil {
			return nil, cli.Usage("-f %s: %w", quoteFormat(text), err)
		}
		i += n
		switch {
		case verb != 0:
			f.fields = append(f.fields, formatField{verb: verb})
		case len(f.fields) == 0:
			f.lead = append(f.lead, literal)
		default:
			last := &f.fields[len(f.fields)-1]
			last.after = append(last.after, literal)
		}
	}
	if len(f.fields) == 0 {
		return nil, cli.Usage("-f %s: there is no verb in it; the verbs are %%t %%p %%o %%k %%v %%h %%d", quoteFormat(text))
	}
	return f, nil
}

// formatToken reads one verb (verb != 0) or one literal byte, n bytes long.
func formatToken(s string) (literal, verb byte, n int, err error) {
	if s[0] != '%' && s[0] != '\\' {
		return s[0], 0, 1, nil
	}
	if len(s) == 1 {
		return 0, 0, 0, fmt.Errorf("it ends in %s; write %s%s for a literal one", s, s, s)
	}
	switch {
	case s[0] == '%' && s[1] == '%':
		return '%', 0, 2, nil
	case s[0] == '%' && strings.IndexByte(formatVerbs, s[1]) >= 0:
		return 0, s[1], 2, nil
	case s[0] == '%':
		return 0, 0, 0, fmt.Errorf("unknown verb %%%s; the verbs are %%t %%p %%o %%k %%v %%h %%d, and %%%% for a percent sign", firstRune(s[1:]))
	}
	return formatEscape(s)
}

func formatEscape(s string) (literal, verb byte, n int, err error) {
	if at := strings.IndexByte(`tnr\`, s[1]); at >= 0 {
		return "\t\n\r\\"[at], 0, 2, nil
	}
	if s[1] == 'x' && len(s) >= 4 {
		if b, err := strconv.ParseUint(s[2:4], 16, 8); err == nil {
			return byte(b), 0, 4, nil
		}
	}
	return 0, 0, 0, fmt.Errorf(`unknown escape \%s; the escapes are \t \n \r \\ and \xHH`, firstRune(s[1:]))
}

func firstRune(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return s[:n]
}

func quoteFormat(text string) string { return "'" + text + "'" }

func (f *recordFormat) has(verb byte) bool {
	return slices.ContainsFunc(f.fields, func(x formatField) bool { return x.verb == verb })
}

// append prints a record.
func (f *recordFormat) append(dst []byte, r *consumer.Record) []byte {
	dst = append(dst, f.lead...)
	for i := range f.fields {
		dst = appendVerb(dst, f.fields[i].verb, r)
		dst = append(dst, f.fields[i].after...)
	}
	return dst
}

func appendVerb(dst []byte, verb byte, r *consumer.Record) []byte {
	switch verb {
	case 't':
		return append(dst, r.Topic...)
	case 'p':
		return strconv.AppendInt(dst, int64(r.Partition), 10)
	case 'o':
		return strconv.AppendInt(dst, r.Offset, 10)
	case 'd':
		return strconv.AppendInt(dst, r.Timestamp.UnixMilli(), 10)
	case 'k':
		return append(dst, r.Key...)
	case 'v':
		return append(dst, r.Value...)
	}
	for i, h := range r.Headers {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, h.Key...)
		dst = append(dst, ':')
		dst = append(dst, h.Value...)
	}
	return dst
}

// inputFormat is a recordFormat that produce splits its input by.
type inputFormat struct {
	recordFormat
	// terminator ends a record. Where the format repeats it inside, a record
	// goes on until the lines-th one.
	terminator []byte
	lines      int
}

// parseInputFormat reads a format for input. What follows the last verb ends a
// record; without that a newline does.
func parseInputFormat(text string) (*inputFormat, error) {
	f, err := parseFormat(text)
	if err != nil {
		return nil, err
	}
	seen := ""
	for i, field := range f.fields {
		switch {
		case field.verb == 'o':
			return nil, cli.Usage("-f %s: the broker gives the offset; %%o is only for consume", quoteFormat(text))
		case strings.IndexByte(seen, field.verb) >= 0:
			return nil, cli.Usage("-f %s: %%%c is in it twice", quoteFormat(text), field.verb)
		case len(field.after) == 0 && i < len(f.fields)-1:
			return nil, cli.Usage("-f %s: nothing separates %%%c from %%%c", quoteFormat(text), field.verb, f.fields[i+1].verb)
		}
		seen += string(field.verb)
	}
	in := &inputFormat{recordFormat: *f, lines: 1}
	last := &in.fields[len(in.fields)-1]
	in.terminator, last.after = last.after, nil
	if len(in.terminator) == 0 {
		in.terminator = []byte{'\n'}
	} else if rest, ok := bytes.CutSuffix(in.terminator, []byte{'\n'}); ok {
		in.terminator, last.after = []byte{'\n'}, rest
	}
	in.lines += bytes.Count(in.lead, in.terminator)
	for _, field := range in.fields {
		in.lines += bytes.Count(field.after, in.terminator)
	}
	return in, nil
}

// inputRecord is what one line of input says.
type inputRecord struct {
	topic       []byte
	key, value  []byte
	partition   int32
	timestampMs int64
	headers     []producer.Header
}

// match splits a line, given without its terminator. What it puts into r are
// slices of line. The error says what does not match.
func (f *inputFormat) match(line []byte, r *inputRecord) error {
	rest, ok := bytes.CutPrefix(line, f.lead)
	if !ok {
		return fmt.Errorf("it does not begin with %q", f.lead)
	}
	for i := range f.fields {
		field := &f.fields[i]
		var part []byte
		if i == len(f.fields)-1 {
			part, ok = bytes.CutSuffix(rest, field.after)
		} else {
			part, rest, ok = bytes.Cut(rest, field.after)
		}
		if !ok {
			return fmt.Errorf("there is no %q after %%%c", field.after, field.verb)
		}
		if err := r.set(field.verb, part); err != nil {
			return err
		}
	}
	return nil
}

func (r *inputRecord) set(verb byte, part []byte) error {
	switch verb {
	case 't':
		r.topic = part
	case 'k':
		r.key = part[:len(part):len(part)]
	case 'v':
		r.value = part[:len(part):len(part)]
	case 'p':
		n, err := strconv.ParseInt(string(part), 10, 32)
		if err != nil || n < 0 || n > math.MaxInt32 {
			return fmt.Errorf("%%p is a partition number, not %q", part)
		}
		r.partition = int32(n)
	case 'd':
		n, err := strconv.ParseInt(string(part), 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("%%d is a timestamp in milliseconds, not %q", part)
		}
		r.timestampMs = n
	case 'h':
		return r.setHeaders(part)
	}
	return nil
}

// setHeaders reads k:v,k:v.
func (r *inputRecord) setHeaders(part []byte) error {
	r.headers = r.headers[:0]
	if len(part) == 0 {
		return nil
	}
	for one := range bytes.SplitSeq(part, []byte{','}) {
		key, value, ok := bytes.Cut(one, []byte{':'})
		if !ok || len(key) == 0 {
			return fmt.Errorf("%%h is a list of k:v, but %q is not one", one)
		}
		r.headers = append(r.headers, producer.Header{Key: string(key), Value: value})
	}
	return nil
}
