package flush_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"iter"
	"maps"
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
	fset, files := rootFiles(t)
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
		for path, pos := range writes(file) {
			switch i := slices.IndexFunc(path, func(s string) bool { return own[s] }); {
			case slices.Contains(pipeFiles, name):
				if i == 1 && path[0] == "p" {
					written++
				}
			case i == 1 && path[0] == "f", i == 2 && path[1] == "pipe":
				t.Errorf("%v: %s is written here", fset.Position(pos), strings.Join(path, "."))
			}
		}
	}
	if written < 50 {
		t.Errorf("the pipe itself writes %d times: this test has gone blind", written)
	}
}

// What much depends on is written in one file.
func TestOneFileWritesEach(t *testing.T) {
	owner := map[string]string{"moveTo": "pipe.go", "held": "carrier.go", "credit": "queue.go"}
	fset, files := rootFiles(t)
	seen := make(map[string]bool)
	for name, file := range files {
		if !slices.Contains(pipeFiles, name) {
			continue // see TestOnlyThePipeWritesItsFields
		}
		for path, pos := range writes(file) {
			if len(path) < 2 {
				continue
			}
			field := path[len(path)-1]
			if file, ok := owner[field]; ok {
				seen[field] = true
				if name != file {
					t.Errorf("%v: %s is written in %s alone", fset.Position(pos), field, file)
				}
			}
		}
	}
	if len(seen) < len(owner) {
		t.Errorf("only %v are seen: this test has gone blind", seen)
	}
	for name, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			path := pathOf(call.Fun)
			if i := len(path) - 1; i > 1 && path[i] == "SetWriteDeadline" && path[i-1] == "deadline" && name != "deadline.go" {
				t.Errorf("%v: the server's write deadline is set in deadline.go alone", fset.Position(call.Pos()))
			}
			return true
		})
	}
}

// floors are the root's files from the ground up. Where two need each other, the
// one that says less of the other stands first.
var floors = strings.Fields(`
	sapi.go errors.go clock.go queue.go ahead.go down.go pipe.go carrier.go layers.go detached.go
	stats.go flusher.go group.go about.go trailers.go notify.go options.go
	sentfile_linux.go sentfile_other.go watch.go await.go deadline.go context.go
	candidates.go body.go stack.go membership.go implicit.go call.go wire.go
	budget.go accept.go sentfile.go timeout.go shutdown.go serve_fastcgi.go
	conn.go plain.go note.go shared.go headers.go sendheaders.go filterview.go close.go brief.go writer.go
	output.go buffer.go clean.go inspect.go detach.go async.go gzip.go broadcast.go
	flush.go handler.go install.go serve.go
`)

// mostUp is how many arrows, of one file that names what another defines, may run
// up: with more of them no file is understood without all the others.
const mostUp = 45

// A new file has its floor, and what it names stands below it.
func TestFilesNameWhatStandsBelow(t *testing.T) {
	fset, files := rootFiles(t)
	for name := range files {
		if name != "doc.go" && !slices.Contains(floors, name) {
			t.Errorf("%s has no floor", name)
		}
	}
	for _, name := range floors {
		if files[name] == nil {
			t.Errorf("there is no %s", name)
		}
	}
	// What other packages define does not matter here: they are left empty, and
	// what is then unknown is no error.
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
	conf := types.Config{Importer: emptyImporter{}, Error: func(error) {}}
	var sorted []*ast.File
	for _, name := range slices.Sorted(maps.Keys(files)) {
		sorted = append(sorted, files[name])
	}
	root, _ := conf.Check("flush", fset, sorted, info)
	arrows, up := make(map[string]bool), make(map[string][]string)
	for id, o := range info.Uses {
		if _, ok := o.(*types.Func); o.Pkg() != root || !o.Pos().IsValid() || !ok && o.Parent() != root.Scope() {
			continue // another package's, a field, or a function's own
		}
		from, to := fset.Position(id.Pos()).Filename, fset.Position(o.Pos()).Filename
		if from == to {
			continue
		}
		arrow := from + " -> " + to
		arrows[arrow] = true
		if slices.Index(floors, from) < slices.Index(floors, to) {
			up[arrow] = append(up[arrow], o.Name())
		}
	}
	t.Logf("%d arrows, %d of them up", len(arrows), len(up))
	if len(arrows) < 200 {
		t.Errorf("%d arrows: this test has gone blind", len(arrows))
	}
	if len(up) <= mostUp {
		return
	}
	for arrow, names := range up {
		slices.Sort(names)
		t.Errorf("%s: %s", arrow, strings.Join(slices.Compact(names), " "))
	}
}

// An emptyImporter knows of a package its name alone.
type emptyImporter struct{}

func (emptyImporter) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, filepath.Base(path))
	p.MarkComplete()
	return p, nil
}

// rootFiles parses the root's files, all but the tests.
func rootFiles(t *testing.T) (*token.FileSet, map[string]*ast.File) {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset, files := token.NewFileSet(), make(map[string]*ast.File)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if files[name], err = parser.ParseFile(fset, name, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	return fset, files
}

// writes yields what file assigns to, as pathOf has it, and where.
func writes(file *ast.File) iter.Seq2[[]string, token.Pos] {
	return func(yield func([]string, token.Pos) bool) {
		for n := range ast.Preorder(file) {
			var to []ast.Expr
			switch n := n.(type) {
			case *ast.AssignStmt:
				to = n.Lhs
			case *ast.IncDecStmt:
				to = []ast.Expr{n.X}
			}
			for _, x := range to {
				if !yield(pathOf(x), x.Pos()) {
					return
				}
			}
		}
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
