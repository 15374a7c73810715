package broker

import (
	"testing"

	"logbroker/config"
	"logbroker/internal/storage"
)

// Without the names above them the node's directories are gone after a power cut,
// whatever was synced in them.
func TestAPowerCutTakesNoDirectoryOfANode(t *testing.T) {
	fs := storage.NewStrictMem()
	c := config.Default()
	c.Storage.DataDir = "/var/lib/logbroker/node-1"
	dirs, err := openDirectories(c, fs)
	if err != nil {
		t.Fatal(err)
	}
	first, err := openIdentity(dirs, "test", 1)
	if err != nil {
		t.Fatal(err)
	}
	fs.ResetToSyncedState()
	if dirs, err = openDirectories(c, fs); err != nil {
		t.Fatal(err)
	}
	second, err := openIdentity(dirs, "test", 1)
	if err != nil || second.id.Incarnation != first.id.Incarnation {
		t.Fatalf("after a power cut the node is %q, it was %q (%v)", second.id.Incarnation, first.id.Incarnation, err)
	}
}
