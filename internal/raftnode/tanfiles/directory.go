package tanfiles

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/lni/vfs"
)

// Names and tags of tan's directory (dragonboat internal/tan: filename.go,
// version_edit.go, node_states.go, index.go).
const (
	currentFile    = "CURRENT"
	manifestPrefix = "MANIFEST-"
	logSuffix      = ".log"
	indexSuffix    = ".index"

	tagNextFile    = 1
	tagDeletedFile = 2
	tagNewFile     = 3
)

// directory is a replica's directory: which files its log is made of.
type directory struct {
	fs   vfs.FS
	path string
	// live are the numbers of the log files, lowest first.
	live []uint64
	// indexed holds what each index file says, by number. The last log file may
	// have none yet.
	indexed map[uint64]*index
}

// place is where a record is: begin and end say which entries are in it, from the
// first to the last.
type place struct {
	begin, end uint64
	file       uint64
	position   int64
}

// index is what an index file says: where in its log file the entries are, and
// where the newest snapshot and hard state records were then, in any file.
type index struct {
	entries         []place
	compactedTo     uint64
	snapshot, state place
}

func (d *directory) file(name string) string { return d.fs.PathJoin(d.path, name) }

func (d *directory) log(number uint64) string {
	return d.file(fmt.Sprintf("%06d%s", number, logSuffix))
}

func (d *directory) index(number uint64) string {
	return d.file(fmt.Sprintf("%06d%s", number, indexSuffix))
}

// open reads what says which files there are. ok is false where nothing was ever
// written.
func (d *directory) open() (ok bool, err error) {
	names, err := d.fs.List(d.path)
	if notExist(err) {
		return false, nil
	}
	if err != nil {
		return false, Fault(d.path, err)
	}
	written, err := d.written(names)
	if err != nil {
		return false, err
	}
	if !slices.Contains(names, currentFile) {
		if len(written) > 0 {
			return false, damage(d.file(currentFile), "is gone, but there are log files")
		}
		return false, nil
	}
	manifest, err := d.readCurrent()
	if err != nil {
		return false, err
	}
	if d.live, err = d.readManifest(manifest); err != nil {
		return false, err
	}
	if len(written) > 0 && (len(d.live) == 0 || written[len(written)-1] > d.live[len(d.live)-1]) {
		// A log file is entered before its first byte is written, and the one that is
		// written to is never taken out.
		return false, damage(manifest, fmt.Sprintf("does not know %06d%s: it was cut short or is an old one", written[len(written)-1], logSuffix))
	}
	return true, d.readIndexes(names)
}

// written returns the numbers of the log files that hold anything, lowest first.
func (d *directory) written(names []string) (out []uint64, err error) {
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, logSuffix)
		if !ok {
			continue
		}
		number, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			continue
		}
		info, err := d.fs.Stat(d.file(name))
		if err != nil {
			return nil, Fault(d.file(name), err)
		}
		if info.Size() > 0 {
			out = append(out, number)
		}
	}
	slices.Sort(out)
	return out, nil
}

// readCurrent returns the path of the manifest.
func (d *directory) readCurrent() (string, error) {
	path, name := d.file(currentFile), ""
	err := d.eachRecord(path, func(record []byte) error {
		if name == "" {
			name = string(bytes.TrimSpace(record))
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(name, manifestPrefix) {
		return "", damage(path, "does not name a manifest")
	}
	return d.file(name), nil
}

// readManifest returns the numbers of the log files. Its end may be torn: a file
// is used only after its entry is durable.
func (d *directory) readManifest(path string) ([]uint64, error) {
	live := map[uint64]bool{}
	err := d.eachRecord(path, func(record []byte) error {
		in := numbers{bytes.NewReader(record)}
		for in.Len() > 0 {
			tag, number := in.next(), in.next()
			switch tag {
			case tagNextFile:
			case tagDeletedFile:
				delete(live, number)
			case tagNewFile:
				live[number] = true
			default:
				return damage(path, "holds an entry of an unknown kind")
			}
		}
		return nil
	})
	return slices.Sorted(maps.Keys(live)), err
}

// readIndexes reads the index files. tan writes one when it is done with a log
// file, before it begins the next.
func (d *directory) readIndexes(names []string) error {
	d.indexed = map[uint64]*index{}
	for i, number := range d.live {
		if _, err := d.fs.Stat(d.log(number)); err != nil {
			return Fault(d.log(number), err)
		}
		if !slices.Contains(names, d.fs.PathBase(d.index(number))) {
			if i == len(d.live)-1 {
				return nil
			}
			return damage(d.index(number), "is gone")
		}
		read, err := d.readIndex(d.index(number))
		if err != nil {
			return err
		}
		d.indexed[number] = read
	}
	return nil
}

// readIndex reads an index file: a record with the number of replicas, which is
// one at most, and for it records with its ids, its entries, its snapshot and its
// state.
func (d *directory) readIndex(path string) (*index, error) {
	var parts [][]byte
	err := d.eachRecord(path, func(record []byte) error {
		parts = append(parts, slices.Clone(record))
		return nil
	})
	if err != nil {
		return nil, err
	}
	count := uint64(0)
	if len(parts) > 0 {
		count = numbers{bytes.NewReader(parts[0])}.next()
	}
	switch {
	case len(parts) == 1 && count == 0:
		return &index{}, nil
	case len(parts) != 5 || count != 1:
		return nil, damage(path, "was cut short")
	}
	out := &index{}
	out.entries, out.compactedTo = places(parts[2])
	for i, to := range []*place{&out.snapshot, &out.state} {
		if one, _ := places(parts[3+i]); len(one) == 1 {
			*to = one[0]
		}
	}
	return out, nil
}

// places decodes a list of places and the index up to which entries are
// compacted.
func places(record []byte) (out []place, compactedTo uint64) {
	in := numbers{bytes.NewReader(record)}
	for range in.next() {
		p := place{begin: in.next(), end: in.next(), file: in.next(), position: int64(in.next())}
		in.next() // a length that is never used
		out = append(out, p)
	}
	return out, in.next()
}

// eachRecord calls use with every record of a file whose end may be torn.
func (d *directory) eachRecord(path string, use func(record []byte) error) (err error) {
	f, err := d.fs.Open(path)
	if err != nil {
		return Fault(path, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	in := newRecords(f, 0)
	for {
		record, _, err := in.next()
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
			return nil
		}
		if err != nil {
			return Fault(path, err)
		}
		if err := use(record); err != nil {
			return err
		}
	}
}

// numbers decodes unsigned varints. It panics where there is none: Read recovers.
type numbers struct{ *bytes.Reader }

func (n numbers) next() uint64 {
	v, err := binary.ReadUvarint(n.Reader)
	if err != nil {
		panic(err)
	}
	return v
}
