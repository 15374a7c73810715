package storage

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestWritePiecesWritesThemInOrder(t *testing.T) {
	dir := t.TempDir()
	mem := NewStrictMem()
	if err := mem.MkdirAll("/d", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, place := range []struct {
		fs   FS
		path string
	}{{OS(), filepath.Join(dir, "f")}, {mem, "/d/f"}} {
		f, err := place.fs.Create(place.path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write([]byte("begin")); err != nil {
			t.Fatal(err)
		}
		want := []byte("begin")
		var pieces [][]byte
		for i := range 2500 { // more than the kernel takes at once
			piece := bytes.Repeat([]byte{byte(i)}, i%7)
			pieces, want = append(pieces, piece), append(want, piece...)
		}
		if err := WritePieces(f, pieces); err != nil {
			t.Fatal(err)
		}
		if err := WritePieces(f, nil); err != nil {
			t.Fatalf("no pieces: %v", err)
		}
		if _, err := f.Write([]byte("end")); err != nil {
			t.Fatal(err)
		}
		got, err := place.fs.Open(place.path)
		if err != nil {
			t.Fatal(err)
		}
		defer got.Close()
		all, err := io.ReadAll(got)
		if err != nil || !bytes.Equal(all, append(want, "end"...)) {
			t.Errorf("%T holds %d bytes, %v; want %d", f, len(all), err, len(want)+3)
		}
	}
}

func TestWritePiecesReportsTheError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := OS().Open(path) // for reading
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := WritePieces(f, [][]byte{{1}, {2}}); err == nil {
		t.Error("pieces written to a file that is open for reading")
	}
}

func TestWhatIsLeftOfPiecesAfterAShortWrite(t *testing.T) {
	for _, c := range []struct {
		n    int
		want string
		err  error
	}{{1, "bcdef", nil}, {3, "def", nil}, {4, "ef", nil}, {6, "", nil}, {0, "", io.ErrShortWrite}} {
		pieces := [][]byte{[]byte("ab"), []byte("c"), {}, []byte("def")}
		left, err := unwritten(pieces, c.n)
		if !errors.Is(err, c.err) || string(bytes.Join(left, nil)) != c.want {
			t.Errorf("after %d bytes %q is left, %v", c.n, left, err)
		}
	}
	if left, err := unwritten([][]byte{{}, {}}, 0); err != nil || !reflect.DeepEqual(left, [][]byte(nil)) {
		t.Errorf("nothing to write leaves %q, %v", left, err)
	}
}
