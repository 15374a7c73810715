package config

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// A file that is taken is printed as one that loads to the same.
func FuzzLoad(f *testing.F) {
	f.Add([]byte("storage: {segment_bytes: 1GiB, segment_age: 24h}\n"))
	f.Add([]byte("cluster:\n  founders: [127.0.0.1:1, 127.0.0.1:2]\nraft: {rtt: 50ms}\n"))
	f.Add([]byte("storage: {segment_bytes: -1, min_free_bytes: 9223372036854775807GiB}\n"))
	f.Add([]byte("topic_defaults: {retention_bytes: 1.5GiB}\nlog: {level: [a]}\n"))
	f.Add([]byte("a: &a [*a]\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, FileName)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Load(LoadOptions{File: path})
		if err != nil || got.Config.Validate() != nil {
			return
		}
		var printed bytes.Buffer
		if err := Print(&printed, got.Config); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, printed.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Load(LoadOptions{File: path})
		if err != nil {
			t.Fatalf("%q is printed as what does not load: %v\n%s", data, err, printed.String())
		}
		var second bytes.Buffer
		if err := Print(&second, again.Config); err != nil || second.String() != printed.String() {
			t.Errorf("%q is printed as what loads differently: %v\n%s\n%s", data, err, printed.String(), second.String())
		}
	})
}
