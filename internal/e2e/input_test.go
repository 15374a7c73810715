package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inputLines is how many lines of Go source go through the command line.
const inputLines = 200_000

// syscallTerm is how an operator stops a process.
const syscallTerm = syscall.SIGTERM

// realInput returns real text, one record a line: a Go source file's path, a
// tab, and one of its lines. byKey holds each file's lines in order.
func realInput(t testing.TB) (text []byte, byKey map[string][]string) {
	t.Helper()
	var out bytes.Buffer
	goroot := strings.TrimSpace(run(t, 10*time.Second, nil, "go", "env", "GOROOT").stdout)
	byKey, root, n := map[string][]string{}, filepath.Join(goroot, "src"), 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		key := strings.TrimPrefix(path, root+"/")
		for line := range strings.Lines(string(raw)) {
			line = strings.TrimSuffix(line, "\n")
			byKey[key] = append(byKey[key], line)
			fmt.Fprintf(&out, "%s\t%s\n", key, line)
			n++
		}
		if n >= inputLines {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < inputLines {
		t.Skipf("the Go distribution here has only %d lines of source", n)
	}
	return out.Bytes(), byKey
}

func TestRealInputComesBackCompleteAndInOrderPerKeyWithEveryCodec(t *testing.T) {
	t.Parallel()
	text, byKey := realInput(t)
	d := startDev(t, "--any-port", "--ephemeral")
	server := d.told.Servers[1]
	plain := int64(0)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		cli(t, 0, server, nil, "topic", "create", codec, "-p", "6")
		args := []string{"topic", "produce", codec, "-f", `%k\t%v\n`, "-z", codec}
		if codec != "none" {
			args = append(args, "-q")
		}
		produced := cli(t, 0, server, bytes.NewReader(text), args...)
		if n := strings.Count(produced.stdout, "Produced to partition "); codec == "none" && n < inputLines {
			t.Errorf("%d acks were printed for at least %d records", n, inputLines)
		}
		consumed := cli(t, 0, server, nil, "topic", "consume", codec, "--from", "start", "-e", "-f", `%k\t%v\n`)
		wantInput(t, codec, consumed.stdout, byKey)
		size := topicBytes(t, server, codec)
		t.Logf("%-6s %d bytes of input stored as %d; produced in %s, consumed in %s", codec, len(text), size,
			produced.took.Round(time.Millisecond), consumed.took.Round(time.Millisecond))
		if plain = max(plain, size); codec != "none" && size > plain*7/10 {
			t.Errorf("%s: %d bytes on disk, without compression %d", codec, size, plain)
		}
	}
	d.stop(t, syscallTerm, drainTimeout)
}

// wantInput demands of every key exactly its lines, in order.
func wantInput(t *testing.T, codec, got string, byKey map[string][]string) {
	t.Helper()
	next := make(map[string]int, len(byKey))
	for line := range strings.Lines(got) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		i := next[key]
		if lines := byKey[key]; i >= len(lines) || lines[i] != value {
			t.Fatalf("%s: key %q: record %d is %q, which is not that line of the file", codec, key, i, value)
		}
		next[key]++
	}
	for key, lines := range byKey {
		if next[key] != len(lines) {
			t.Errorf("%s: %d of the %d lines of %s came back", codec, next[key], len(lines), key)
		}
	}
}

func topicBytes(t *testing.T, server, topic string) int64 {
	t.Helper()
	type description struct {
		Partitions []struct {
			SizeBytes int64 `json:"size_bytes"`
		} `json:"partitions"`
	}
	sum := int64(0)
	for _, p := range decode[description](t, cli(t, 0, server, nil, "topic", "describe", topic, "-o", "json").stdout).Partitions {
		sum += p.SizeBytes
	}
	return sum
}
