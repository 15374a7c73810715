package raftnode

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/lni/vfs"

	"logbroker/internal/storage"
)

// quarantineDir is where SetAside moves things, in the Raft directory.
const quarantineDir = "quarantine"

// SetAside moves what is left of replicas that never run again out of the Raft
// log's way, into quarantine/ of the Raft directory dir; nothing is deleted. It
// must be called before Open. A crash in between costs nothing: the next call
// moves the rest, and what is gone already is no error.
func SetAside(fs vfs.FS, dir string, replicas []ReplicaID) error {
	base := filepath.Join(dir, fixedComponent)
	for _, id := range replicas {
		deployments, err := listIfExists(fs, base)
		if err != nil {
			return fmt.Errorf("raftnode: list %s: %w", base, err)
		}
		for _, deployment := range deployments {
			if err := setAsideOne(fs, dir, deployment, id); err != nil {
				return fmt.Errorf("raftnode: set shard %d replica %d aside: %w", id.Shard, id.Replica, err)
			}
		}
	}
	return nil
}

// setAsideOne moves one replica's log, bootstrap record and snapshots: the places
// are tan's and dragonboat's (internal/tan: regularKeeper.name, bootstrap.go;
// internal/server: Env.getSnapshotDirParts).
func setAsideOne(fs vfs.FS, dir, deployment string, id ReplicaID) error {
	base := filepath.Join(dir, fixedComponent, deployment)
	name := fmt.Sprintf("%d-%d", id.Shard, id.Replica)
	places := []string{filepath.Join("tandb", "node-"+name), filepath.Join("tandb", "bootstrap", "BOOTSTRAP-"+name)}
	parts, err := listIfExists(fs, base)
	if err != nil {
		return err
	}
	for _, part := range parts {
		if strings.HasPrefix(part, "snapshot-part-") {
			places = append(places, filepath.Join(part, "snapshot-"+name))
		}
	}
	for _, place := range places {
		if err := move(fs, filepath.Join(base, place), filepath.Join(dir, quarantineDir, deployment, place)); err != nil {
			return err
		}
	}
	return nil
}

// move is durable on return. A source that is not there was moved before.
func move(fs vfs.FS, from, to string) error {
	if _, err := fs.Stat(from); storage.NotExist(err) {
		return nil
	}
	if err := storage.MkdirAll(fs, filepath.Dir(to)); err != nil {
		return err
	}
	if err := fs.Rename(from, to); err != nil {
		return err
	}
	if err := storage.SyncDir(fs, filepath.Dir(to)); err != nil {
		return err
	}
	return storage.SyncDir(fs, filepath.Dir(from))
}
