package archtest

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

type listed struct {
	ImportPath string
	Dir        string
	Doc        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// packages lists the module's packages that have code beside tests.
func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,GoFiles,Imports,Deps", "./...")
	cmd.Dir, cmd.Stderr = root(t), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			all = append(all, p)
		}
	}
}

func short(importPath string) string { return strings.TrimPrefix(importPath, Module+"/") }

func TestEveryPackageIsInTheTableAndKeepsItsLayer(t *testing.T) {
	layers := Layers()
	for _, p := range packages(t) {
		rule, known := layers[short(p.ImportPath)]
		if !known {
			t.Errorf("%s is not in the layer table of internal/archtest/layers.go: decide what it may import", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			if why := rule.refuses(imported); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, imported, why)
			}
		}
		for _, dep := range p.Deps {
			for _, never := range rule.Never {
				if within(dep, never) {
					t.Errorf("%s reaches %s, which it never may", p.ImportPath, dep)
				}
			}
		}
	}
}

func (r Rule) refuses(imported string) string {
	if own, ok := strings.CutPrefix(imported, Module+"/"); ok {
		if slices.Contains(r.Own, own) || slices.Contains(anywhere, own) {
			return ""
		}
		return "not allowed by the layer table"
	}
	if !strings.Contains(strings.Split(imported, "/")[0], ".") {
		if slices.Contains(r.NoStd, imported) {
			return "this package must be a function of its input alone"
		}
		return ""
	}
	for _, third := range r.Third {
		if within(imported, third) {
			return ""
		}
	}
	return "third-party module not allowed by the layer table"
}

func within(importPath, prefix string) bool {
	return importPath == prefix || strings.HasPrefix(importPath, prefix+"/")
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.Doc) < 40 {
			t.Errorf("%s has no package comment that says what it is", p.ImportPath)
		}
	}
}
