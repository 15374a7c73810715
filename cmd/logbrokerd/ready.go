package main

import (
	"encoding/json"
	"fmt"

	"logbroker/broker"
	"logbroker/internal/storage"
)

// readyNode is one node of a ready file.
type readyNode struct {
	ID      uint64 `json:"id"`
	PID     int    `json:"pid"`
	DataDir string `json:"data_dir"`
}

// readyInfo is the ready file: what a script needs to know of a cluster that
// is up.
type readyInfo struct {
	Servers []string    `json:"servers"`
	HTTP    []string    `json:"http"`
	Raft    []string    `json:"raft"`
	Nodes   []readyNode `json:"nodes"`
}

func (r *readyInfo) add(info broker.Info, pid int) {
	r.Servers = append(r.Servers, info.ClientURL)
	r.HTTP = append(r.HTTP, info.HTTPURL)
	r.Raft = append(r.Raft, info.RaftAddr)
	r.Nodes = append(r.Nodes, readyNode{ID: info.NodeID, PID: pid, DataDir: info.DataDir})
}

// write writes the file atomically; path "" writes none.
func (r *readyInfo) write(path string) error {
	if path == "" {
		return nil
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the ready file: %w", err)
	}
	if err := storage.WriteFileAtomic(storage.OS(), path, append(raw, '\n')); err != nil {
		return fmt.Errorf("cannot write the ready file %s: %w", path, err)
	}
	return nil
}
