package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"logbroker/consumer"
)

func TestFormatPrintsVerbsAndEscapes(t *testing.T) {
	r := consumer.Record{
		Topic: "orders", Partition: 2, Offset: 17, Timestamp: time.UnixMilli(1234), Key: []byte("k"), Value: []byte("v w"),
		Headers: []consumer.Header{{Key: "a", Value: []byte("1")}, {Key: "b", Value: nil}},
	}
	for format, want := range map[string]string{
		`%v\n`:              "v w\n",
		`%t/%p@%o\t%k=%v\n`: "orders/2@17\tk=v w\n",
		`%d %h`:             "1234 a:1,b:",
		`100%% \\ %k`:       `100% \ k`,
		`%k\x00%v\r\n`:      "k\x00v w\r\n",
		`ü%kä`:              "ükä",
	} {
		f, err := parseFormat(format)
		if err != nil {
			t.Errorf("%s: %v", format, err)
		} else if got := string(f.append(nil, &r)); got != want {
			t.Errorf("%s prints %q, want %q", format, got, want)
		}
	}
}

func TestFormatRefusesWhatItDoesNotKnow(t *testing.T) {
	for format, want := range map[string]string{
		"":          "no verb",
		"abc":       "no verb",
		"%x":        "unknown verb %x",
		"%ü":        "unknown verb %ü",
		"%v%":       "it ends in %",
		`%v\`:       `it ends in \`,
		`%v\q`:      `unknown escape \q`,
		`%v\x4`:     `unknown escape \x`,
		`%v\xzz%k`:  `unknown escape \x`,
		"%k%v":      "",
		"%o %v":     "",
		"%v %k %v ": "",
	} {
		_, err := parseFormat(format)
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", format, err, want)
		}
		if _, err := parseInputFormat(format); err == nil {
			t.Errorf("%q is taken for input", format)
		}
	}
}

func TestFormatSplitsAtTheFirstSeparator(t *testing.T) {
	for _, c := range []struct {
		format, line, key, value, topic, err string
	}{
		{format: `%v\n`, line: "a b", value: "a b"},
		{format: `%v`, line: "", value: ""},
		{format: `%k %v\n`, line: "a b c", key: "a", value: "b c"},
		{format: `%k\t%v\n`, line: "\tx", key: "", value: "x"},
		{format: `%k\t%v\n`, line: "x\t", key: "x", value: ""},
		{format: `%k\t%v\n`, line: "no tab", err: `there is no "\t" after %k`},
		{format: `%k\t%v\n`, line: "", err: `there is no "\t" after %k`},
		{format: `[%k]=%v;\n`, line: "[a]=b];;", key: "a", value: "b];"},
		{format: `[%k]=%v;\n`, line: "(a]=b;", err: `it does not begin with "["`},
		{format: `[%k]=%v;\n`, line: "[a]=b", err: `there is no ";" after %v`},
		{format: `%k\n%v\n`, line: "key\nvalue", key: "key", value: "value"},
		{format: `%t %k:%v`, line: "t1 k:v:w", topic: "t1", key: "k", value: "v:w"},
		{format: `%p %v`, line: "x y", err: `%p is a partition number, not "x"`},
		{format: `%p %v`, line: "-1 y", err: `%p is a partition number`},
		{format: `%d %v`, line: "now y", err: `%d is a timestamp`},
		{format: `%h %v`, line: "a y", err: `%h is a list of k:v`},
	} {
		f, err := parseInputFormat(c.format)
		if err != nil {
			t.Errorf("%s: %v", c.format, err)
			continue
		}
		var r inputRecord
		err = f.match([]byte(c.line), &r)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s %q: %v, want %q", c.format, c.line, err, c.err)
			}
			continue
		}
		if err != nil || string(r.key) != c.key || string(r.value) != c.value || string(r.topic) != c.topic {
			t.Errorf("%s %q: topic %q, key %q, value %q, %v", c.format, c.line, r.topic, r.key, r.value, err)
		}
		if f.has('k') && r.key == nil {
			t.Errorf("%s %q: an empty key became null", c.format, c.line)
		}
	}
}

func TestInputFormatKnowsWhereARecordEnds(t *testing.T) {
	for format, want := range map[string]struct {
		terminator string
		lines      int
	}{
		`%v`: {"\n", 1}, `%v\n`: {"\n", 1}, `%k\n%v\n`: {"\n", 2}, `%v;`: {";", 1}, `%v --\n`: {"\n", 1}, `%k;%v;`: {";", 2}, `%v\r\n`: {"\n", 1},
	} {
		f, err := parseInputFormat(format)
		if err != nil || string(f.terminator) != want.terminator || f.lines != want.lines {
			t.Errorf("%s: %q %d %v, want %v", format, f.terminator, f.lines, err, want)
		}
	}
}

// FuzzFormat holds that a format that parses never panics, and that what
// consume prints with a tab-separated format is what produce reads.
func FuzzFormat(f *testing.F) {
	for _, s := range []string{`%k\t%v\n`, `%t %p %d %h %v`, `%%%v\\\x41`, `%`, `\`, `%k\n%v;`} {
		f.Add(s, []byte("key"), []byte("value"))
	}
	f.Fuzz(func(t *testing.T, format string, key, value []byte) {
		r := consumer.Record{Topic: "t", Key: key, Value: value, Timestamp: time.UnixMilli(5)}
		if out, err := parseFormat(format); err == nil {
			out.append(nil, &r)
		}
		if in, err := parseInputFormat(format); err == nil {
			var got inputRecord
			_ = in.match(value, &got)
			if in.lines < 1 || len(in.terminator) == 0 {
				t.Fatalf("%q: a record has no end", format)
			}
		}
		if bytes.IndexByte(key, '\t') >= 0 {
			return
		}
		both, err := parseInputFormat(`%k\t%v\n`)
		if err != nil {
			t.Fatal(err)
		}
		line := bytes.TrimSuffix(mustFormat(t, `%k\t%v\n`).append(nil, &r), []byte("\n"))
		var got inputRecord
		if err := both.match(line, &got); err != nil || !bytes.Equal(got.key, key) || !bytes.Equal(got.value, value) {
			t.Fatalf("%q %q came back as %q %q, %v", key, value, got.key, got.value, err)
		}
	})
}

func mustFormat(t testing.TB, text string) *recordFormat {
	f, err := parseFormat(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func BenchmarkSplitLines(b *testing.B) {
	input := bytes.Repeat([]byte("package-name\tsome text of a line that is about eighty bytes long, more or less....\n"), 10_000)
	f, err := parseInputFormat(`%k\t%v\n`)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(input)))
	records := 0
	for b.Loop() {
		lines := newLineReader(bytes.NewReader(input), f.terminator, f.lines)
		for {
			line, err := lines.next(b.Context())
			if err != nil {
				break
			}
			var r inputRecord
			if err := f.match(line, &r); err != nil {
				b.Fatal(err)
			}
			records++
		}
	}
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkAppendRecordJSON(b *testing.B) {
	r := consumer.Record{
		Topic: "events", Partition: 3, Offset: 123456, Timestamp: time.UnixMilli(1700000000000), Key: []byte("package-name"),
		Value: []byte(`some text of a "line" that is about eighty bytes long, more or less....`),
	}
	var dst []byte
	for b.Loop() {
		dst = appendRecordJSON(dst[:0], &r, false)
	}
	b.SetBytes(int64(len(dst)))
}
