package flush_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pipeFiles are those of floor 2.
var pipeFiles = []string{"pipe.go", "carrier.go", "accept.go", "await.go", "queue.go", "plain.go"}

// No file but floor 2's writes what is floor 2's: who sees a field at a value
// knows where it came from.
func TestOnlyThePipeWritesItsFields(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	files := make(map[string]*ast.File)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if files[name], err = parser.ParseFile(fset, name, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	own := make(map[string]bool)
	ast.Inspect(files["pipe.go"], func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "pipe" {
			return true
		}
		for _, field := range spec.Type.(*ast.StructType).Fields.List {
			for _, name := range field.Names {
				own[name.Name] = true
			}
		}
		return false
	})
	if !own["held"] || !own["moveTo"] || own["mark"] {
		t.Fatalf("the pipe's fields: %v", own)
	}
	written := 0
	for name, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			var to []ast.Expr
			switch n := n.(type) {
			case *ast.AssignStmt:
				to = n.Lhs
			case *ast.IncDecStmt:
				to = []ast.Expr{n.X}
			}
			for _, x := range to {
				path := pathOf(x)
				switch i := slices.IndexFunc(path, func(s string) bool { return own[s] }); {
				case slices.Contains(pipeFiles, name):
					if i == 1 && path[0] == "p" {
						written++
					}
				case i == 1 && path[0] == "f", i == 2 && path[1] == "pipe":
					t.Errorf("%v: %s is written here", fset.Position(x.Pos()), strings.Join(path, "."))
				}
			}
			return true
		})
	}
	if written < 50 {
		t.Errorf("the pipe itself writes %d times: this test has gone blind", written)
	}
}

// pathOf returns the names of a chain of fields, as a.b.c has.
func pathOf(x ast.Expr) []string {
	switch x := x.(type) {
	case *ast.Ident:
		return []string{x.Name}
	case *ast.SelectorExpr:
		if path := pathOf(x.X); path != nil {
			return append(path, x.Sel.Name)
		}
	}
	return nil
}
