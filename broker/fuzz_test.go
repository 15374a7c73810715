package broker

import (
	"os"
	"path/filepath"
	"testing"

	"logbroker/internal/storage"
)

// Whatever lies in node.json is refused, or names a node.
func FuzzReadIdentity(f *testing.F) {
	f.Add([]byte(`{"format":1,"node_id":1,"incarnation":"a","cluster_id":"c"}`))
	f.Add([]byte(`{"format":1,"node_id":1,"incarnation":"a","founders":[{"id":1}],"shards":{"2":{}}}`))
	f.Add([]byte(`{"format":99}`))
	f.Add([]byte(`null`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, identityFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		id, err := readIdentity(storage.OS(), dir)
		if err == nil && (id == nil || id.NodeID == 0 || id.Incarnation == "") {
			t.Errorf("%q was taken for %+v", data, id)
		}
	})
}
