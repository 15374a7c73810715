package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The hard limits; docs and the linter ask for less.
const (
	fileLinesMax     = 800
	functionLinesMax = 70
	parametersMax    = 5
)

// eachGoFile parses every Go file of the module.
func eachGoFile(t *testing.T, visit func(path string, fset *token.FileSet, file *ast.File)) {
	t.Helper()
	top := root(t)
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != top && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "logbroker-data") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		visit(relative, fset, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesAndFunctionsStaySmall(t *testing.T) {
	eachGoFile(t, func(path string, fset *token.FileSet, file *ast.File) {
		if n := fset.File(file.Pos()).LineCount(); n > fileLinesMax {
			t.Errorf("%s has %d lines, at most %d: split it by what it is about", path, n, fileLinesMax)
		}
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok {
				checkFunction(t, path, fset, f)
			}
		}
	})
}

// imposed are the methods whose parameters an interface of another module fixes.
var imposed = map[string]bool{
	"internal/raftnode/readback.go: IterateEntries": true, // dragonboat's raftio.ILogDB
}

func checkFunction(t *testing.T, path string, fset *token.FileSet, f *ast.FuncDecl) {
	t.Helper()
	lines := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1
	if lines > functionLinesMax {
		t.Errorf("%s: %s has %d lines, at most %d", path, f.Name.Name, lines, functionLinesMax)
	}
	if n := f.Type.Params.NumFields(); n > parametersMax && !imposed[path+": "+f.Name.Name] {
		t.Errorf("%s: %s has %d parameters, at most %d: give it a struct", path, f.Name.Name, n, parametersMax)
	}
}

// vague names say nothing about what is inside.
var vague = regexp.MustCompile(`(^|/)(utils?|common|types|helpers?|managers?|misc|base)(\.go|/|_test\.go)`)

func TestNoVagueNames(t *testing.T) {
	eachGoFile(t, func(path string, _ *token.FileSet, file *ast.File) {
		if vague.MatchString(path) {
			t.Errorf("%s: the name says nothing; name what is inside", path)
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" && !strings.HasSuffix(path, "_test.go") {
				t.Errorf("%s has an init function: construct things where they are used", path)
			}
		}
	})
}

func TestNoSleepInTests(t *testing.T) {
	eachGoFile(t, func(path string, fset *token.FileSet, file *ast.File) {
		if !strings.HasSuffix(path, "_test.go") {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s: time.Sleep in a test hides a race; wait for the event", fset.Position(n.Pos()))
				}
			}
			return true
		})
	})
}
