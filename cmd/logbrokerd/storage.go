package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
	"logbroker/internal/storage"
	"logbroker/partitions/commitlog"
	"logbroker/partitions/fsm"
)

func newStorage() *cobra.Command {
	return cli.Group("storage", "Look at the data directories of stopped nodes", newStorageInspect(), newStorageVerify())
}

func newStorageInspect() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "inspect DIR", Short: "List the partition replicas in a data directory", Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := replicasIn(args[0])
			if err != nil {
				return err
			}
			for _, r := range found {
				if err := r.verify(0); err != nil {
					return err
				}
			}
			return printReplicas(cmd.OutOrStdout(), output, found)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func newStorageVerify() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "verify DIR [DIR…]", Short: "Check every batch, and that the replicas of stopped nodes are byte-identical",
		Long: "Check every checksum and offset in the data directories. With several directories the segments of\n" +
			"each partition are compared up to the lowest end among them: they must be identical byte for byte.",
		Args: cli.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			rows, err := verifyDirs(args)
			if err != nil {
				return err
			}
			if err := printVerdicts(cmd.OutOrStdout(), output, rows); err != nil {
				return err
			}
			bad := slices.ContainsFunc(rows, func(v verdict) bool { return !v.Identical || len(v.Damage) > 0 })
			if bad {
				return errors.New("the data is damaged or the replicas differ; see the rows above")
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "table", "table or json")
}

// storedReplica is one replica's directory.
type storedReplica struct {
	Dir      string   `json:"dir"`
	Shard    uint64   `json:"shard"`
	Replica  uint64   `json:"replica"`
	Applied  uint64   `json:"applied"`
	LogStart int64    `json:"log_start"`
	End      int64    `json:"end"`
	Bytes    int64    `json:"bytes"`
	Segments int      `json:"segments"`
	Damage   []string `json:"damage"`

	logDir string
	report commitlog.Report
}

// replicasIn lists the replicas below a node's data directory.
func replicasIn(dir string) ([]*storedReplica, error) {
	parent := filepath.Join(dir, "partitions")
	entries, err := os.ReadDir(parent)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is no node's data directory: it has no partitions in it", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", parent, err)
	}
	var found []*storedReplica
	for _, e := range entries {
		shard, replica, ok := replicaName(e.Name())
		if !e.IsDir() || !ok {
			continue
		}
		r := &storedReplica{Dir: filepath.Join(parent, e.Name()), Shard: shard, Replica: replica, Damage: []string{}}
		if err := r.readMarker(); err != nil {
			return nil, err
		}
		found = append(found, r)
	}
	return found, nil
}

// replicaName reads "<shard>-<replica>".
func replicaName(name string) (shard, replica uint64, ok bool) {
	a, b, cut := strings.Cut(name, "-")
	shard, errA := strconv.ParseUint(a, 10, 64)
	replica, errB := strconv.ParseUint(b, 10, 64)
	return shard, replica, cut && errA == nil && errB == nil
}

func (r *storedReplica) readMarker() error {
	marker, err := fsm.ReadMarker(storage.OS(), r.Dir)
	switch {
	case errors.Is(err, os.ErrNotExist): // nothing was ever made durable
		r.logDir = fsm.Marker{}.LogDir(storage.OS(), r.Dir)
		return nil
	case errors.Is(err, commitlog.ErrDamaged):
		r.Damage = append(r.Damage, err.Error())
		return nil
	case err != nil:
		return err
	}
	r.Applied, r.LogStart = marker.Applied, marker.Log.LogStart
	r.logDir = marker.LogDir(storage.OS(), r.Dir)
	return nil
}

// verify reads everything; digests cover what lies below the offset below, or
// all where it is 0.
func (r *storedReplica) verify(below int64) error {
	if r.logDir == "" {
		return nil // the marker is damaged: nothing says where the log is
	}
	report, err := commitlog.Verify(storage.OS(), r.logDir, commitlog.VerifyOptions{Below: below})
	if errors.Is(err, os.ErrNotExist) {
		return nil // a replica that never held a record
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", r.logDir, err)
	}
	if below > 0 {
		r.report = report // the damage is known from the first pass
		return nil
	}
	r.report = report
	for _, d := range report.Damage {
		r.Damage = append(r.Damage, d.Error())
	}
	for _, s := range report.Segments {
		r.Bytes += s.Bytes
		r.End = s.End
	}
	r.Segments = len(report.Segments)
	return nil
}

// verdict is what verify says of one partition.
type verdict struct {
	Shard    uint64 `json:"shard"`
	Replicas int    `json:"replicas"`
	LogStart int64  `json:"log_start"`
	// Compared is the end of what was compared.
	Compared  int64             `json:"compared"`
	Digests   map[string]string `json:"digests"` // segment's base offset → SHA-256
	Identical bool              `json:"identical"`
	Damage    []string          `json:"damage"`
}

func verifyDirs(dirs []string) ([]verdict, error) {
	byShard := map[uint64][]*storedReplica{}
	for _, dir := range dirs {
		found, err := replicasIn(dir)
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			if err := r.verify(0); err != nil {
				return nil, err
			}
			byShard[r.Shard] = append(byShard[r.Shard], r)
		}
	}
	rows := make([]verdict, 0, len(byShard))
	for shard, replicas := range byShard {
		v, err := compareReplicas(shard, replicas)
		if err != nil {
			return nil, err
		}
		rows = append(rows, v)
	}
	slices.SortFunc(rows, func(a, b verdict) int { return int(a.Shard) - int(b.Shard) })
	return rows, nil
}

// compareReplicas compares the segments of a partition's replicas from the
// highest log start to the lowest end.
func compareReplicas(shard uint64, replicas []*storedReplica) (verdict, error) {
	v := verdict{Shard: shard, Replicas: len(replicas), Compared: replicas[0].End, Digests: map[string]string{}, Identical: true, Damage: []string{}}
	for _, r := range replicas {
		v.LogStart, v.Compared = max(v.LogStart, r.LogStart), min(v.Compared, r.End)
		v.Damage = append(v.Damage, r.Damage...)
	}
	for _, r := range replicas {
		if r.End > v.Compared && v.Compared > 0 {
			if err := r.verify(v.Compared); err != nil {
				return v, err
			}
		}
		for _, s := range r.report.Segments {
			if s.Base >= v.Compared || s.End <= v.LogStart {
				continue
			}
			base, digest := strconv.FormatInt(s.Base, 10), hex.EncodeToString(s.SHA256[:])
			if other, seen := v.Digests[base]; seen && other != digest {
				v.Identical = false
			}
			v.Digests[base] = digest
		}
	}
	for _, r := range replicas { // every replica must have every segment
		v.Identical = v.Identical && r.covers(v)
	}
	return v, nil
}

func (r *storedReplica) covers(v verdict) bool {
	n := 0
	for _, s := range r.report.Segments {
		if s.Base < v.Compared && s.End > v.LogStart {
			n++
		}
	}
	return n == len(v.Digests)
}

func printReplicas(w io.Writer, output string, rows []*storedReplica) error {
	if output == "json" {
		return printJSON(w, rows, len(rows) == 0)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SHARD\tREPLICA\tAPPLIED\tLOG-START\tEND\tSEGMENTS\tBYTES\tDAMAGE")
	for _, r := range rows {
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", r.Shard, r.Replica, r.Applied, r.LogStart, r.End, r.Segments, r.Bytes, strings.Join(r.Damage, "; "))
	}
	return t.Flush()
}

func printVerdicts(w io.Writer, output string, rows []verdict) error {
	if output == "json" {
		return printJSON(w, rows, len(rows) == 0)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SHARD\tREPLICAS\tFROM\tTO\tSEGMENTS\tVERDICT\tDAMAGE")
	for _, v := range rows {
		word := "identical"
		if !v.Identical {
			word = "DIFFERENT"
		}
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%d\t%s\t%s\n", v.Shard, v.Replicas, v.LogStart, v.Compared, len(v.Digests), word, strings.Join(v.Damage, "; "))
	}
	return t.Flush()
}

func printJSON(w io.Writer, rows any, empty bool) error {
	if empty {
		_, err := fmt.Fprintln(w, "[]")
		return err
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(rows)
}
