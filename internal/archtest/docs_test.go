package archtest

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// reference is a `path/file.go:Type.Func` or `path/file.go:Func` in a document.
var reference = regexp.MustCompile("`([a-z][A-Za-z0-9_/]*\\.go):([A-Za-z0-9_.]+)`")

// testName is a Go test's name in a document.
var testName = regexp.MustCompile("`(Test[A-Za-z0-9_]+)`")

// declared returns "file.go:Name" for every declaration, and all test names.
func declared(t *testing.T) (names, tests map[string]bool) {
	t.Helper()
	names, tests = map[string]bool{}, map[string]bool{}
	eachGoFile(t, func(path string, _ *token.FileSet, file *ast.File) {
		path = filepath.ToSlash(path)
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				names[path+":"+functionName(d)] = true
				if d.Recv == nil && strings.HasPrefix(d.Name.Name, "Test") {
					tests[d.Name.Name] = true
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if ts, ok := spec.(*ast.TypeSpec); ok {
						names[path+":"+ts.Name.Name] = true
					}
				}
			}
		}
	})
	return names, tests
}

func functionName(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	receiver := f.Recv.List[0].Type
	if star, ok := receiver.(*ast.StarExpr); ok {
		receiver = star.X
	}
	if index, ok := receiver.(*ast.IndexExpr); ok {
		receiver = index.X
	}
	if ident, ok := receiver.(*ast.Ident); ok {
		return ident.Name + "." + f.Name.Name
	}
	return f.Name.Name
}

func TestDocumentsNameCodeThatExists(t *testing.T) {
	names, tests := declared(t)
	for _, doc := range []string{"docs/ARCHITECTURE.md", "docs/GUARANTEES.md", "docs/PERFORMANCE.md", "README.md", "CONTRIBUTING.md"} {
		raw, err := os.ReadFile(filepath.Join(root(t), doc))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range reference.FindAllStringSubmatch(string(raw), -1) {
			if !names[m[1]+":"+m[2]] {
				t.Errorf("%s names %s:%s, which does not exist", doc, m[1], m[2])
			}
		}
		for _, m := range testName.FindAllStringSubmatch(string(raw), -1) {
			if !tests[m[1]] {
				t.Errorf("%s names the test %s, which does not exist", doc, m[1])
			}
		}
	}
}

func TestArchitectureNamesItsCode(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root(t), "docs/ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(reference.FindAllString(string(raw), -1)); n < 15 {
		t.Fatalf("docs/ARCHITECTURE.md names %d places in the code; a map has at least 15", n)
	}
}

// What docs/GUARANTEES.md promises names its tests: every promise, every way in which
// a leader can fail, and every row of what must not make an empty voter.
func TestEveryPromiseNamesWhatProvesIt(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root(t), "docs/GUARANTEES.md"))
	if err != nil {
		t.Fatal(err)
	}
	promises, failures, rows := 0, 0, 0
	for _, part := range regexp.MustCompile(`(?m)^(?:\d\. |## |\| )`).Split(string(raw), -1)[1:] {
		named := testName.MatchString(part)
		switch {
		case strings.HasPrefix(part, "**"):
			promises++
		case regexp.MustCompile(`^\d \|`).MatchString(part):
			failures++
			named = reference.MatchString(part)
		case strings.Count(part, "|") == 3 && !strings.HasPrefix(part, "what happened"):
			rows++
		default:
			continue
		}
		if !named {
			t.Errorf("nothing is named that proves this: %.80q", part)
		}
	}
	if promises != 9 || failures != 7 || rows < 7 {
		t.Errorf("%d promises, %d ways to fail, %d rows: the document has another shape than this test knows", promises, failures, rows)
	}
}

// makeTarget is a target of make in a document.
var makeTarget = regexp.MustCompile("`make ([a-z][a-z-]*)")

func TestDocumentsNameMakeTargetsThatExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root(t), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	docs, err := filepath.Glob(filepath.Join(root(t), "docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, doc := range append(docs, filepath.Join(root(t), "README.md"), filepath.Join(root(t), "CONTRIBUTING.md")) {
		raw, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range makeTarget.FindAllStringSubmatch(string(raw), -1) {
			found++
			if !regexp.MustCompile(`(?m)^` + m[1] + `:`).Match(makefile) {
				t.Errorf("%s names make %s, which does not exist", filepath.Base(doc), m[1])
			}
		}
	}
	if found < 10 {
		t.Errorf("%d targets were found", found)
	}
}
