package docs_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var updateAPI = flag.Bool("update", false, "rewrite testdata/api.txt")

const apiFile = "testdata/api.txt"

// apiPackages are the folders whose exported names are listed. One that does
// not exist is left out.
var apiPackages = []string{".", "flushdebug", "flushtest"}

// A change of the exported names shows up in testdata/api.txt, where a review
// sees it.
func TestAPI(t *testing.T) {
	var got []string
	for _, dir := range apiPackages {
		_, pkg := parsePackage(t, dir)
		if pkg == nil {
			continue
		}
		for _, line := range apiLines(pkg) {
			if dir != "." {
				line = "pkg " + dir + ", " + line
			}
			got = append(got, line)
		}
	}
	slices.Sort(got)
	if *updateAPI {
		if err := os.WriteFile(apiFile, []byte(strings.Join(got, "\n")+"\n"), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}

	file, err := os.ReadFile(apiFile)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSuffix(string(file), "\n"), "\n")
	if !slices.Equal(got, want) {
		t.Errorf("the exported names are not those of %s (-); if they should be, run go test ./internal/suite/docs -run TestAPI -update\n%s",
			apiFile, lineDiff(want, got))
	}
}

func TestEveryExportedNameIsDocumented(t *testing.T) {
	for _, dir := range apiPackages {
		files, pkg := parsePackage(t, dir)
		if pkg == nil {
			continue
		}
		hasDoc := slices.ContainsFunc(files, func(f *ast.File) bool { return f.Doc != nil })
		if !hasDoc {
			t.Errorf("package %s has no doc comment", pkg.Name())
		}
		for _, f := range files {
			for _, name := range undocumented(f) {
				t.Errorf("%s.%s has no doc comment", pkg.Name(), name)
			}
		}
	}
}

// parsePackage reads the package in dir without its tests. It returns nil
// where there is none.
func parsePackage(t *testing.T, dir string) ([]*ast.File, *types.Package) {
	t.Helper()
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		return nil, nil
	}
	info, err := build.ImportDir(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range info.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(dir, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	conf := types.Config{Importer: ownImporter{t}, IgnoreFuncBodies: true}
	pkg, err := conf.Check(info.Name, fset, files, nil)
	if err != nil {
		t.Fatal(err)
	}
	return files, pkg
}

// ownImporter finds this module's packages in their folders. All that it imports
// has each package once: another's time.Duration is another type.
type ownImporter struct{ t *testing.T }

var (
	goImporter = importer.ForCompiler(token.NewFileSet(), "gc", nil)
	ownImports = make(map[string]*types.Package)
)

func (i ownImporter) Import(path string) (*types.Package, error) {
	dir, ok := strings.CutPrefix(path+"/", "github.com/fa492104/flush/")
	if !ok {
		return goImporter.Import(path)
	}
	if ownImports[dir] == nil {
		_, ownImports[dir] = parsePackage(i.t, filepath.Join(".", dir))
	}
	return ownImports[dir], nil
}

// apiLines describes each exported name of pkg, field and method in one line,
// in the manner of the files in Go's own api folder.
func apiLines(pkg *types.Package) []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	str := func(t types.Type) string { return typeString(pkg, t) }
	scope := pkg.Scope()
	for _, name := range scope.Names() {
		obj := scope.Lookup(name)
		if !obj.Exported() {
			continue
		}
		switch obj := obj.(type) {
		case *types.Const:
			add("const %s %s = %s", name, str(obj.Type()), obj.Val())
		case *types.Var:
			add("var %s %s", name, str(obj.Type()))
		case *types.Func:
			add("func %s%s", name, strings.TrimPrefix(str(obj.Type()), "func"))
		case *types.TypeName:
			if obj.IsAlias() {
				add("type %s = %s", name, str(types.Unalias(obj.Type())))
				continue
			}
			switch u := obj.Type().Underlying().(type) {
			case *types.Struct:
				add("type %s struct", name)
				for f := range u.Fields() {
					switch {
					case f.Embedded() && f.Exported():
						add("type %s struct, embedded %s", name, str(f.Type()))
					case f.Exported():
						add("type %s struct, %s %s", name, f.Name(), str(f.Type()))
					}
				}
			case *types.Interface:
				add("type %s interface", name)
				for m := range u.Methods() {
					add("type %s interface, %s%s", name, m.Name(), strings.TrimPrefix(str(m.Type()), "func"))
				}
				continue
			default:
				add("type %s %s", name, str(u))
			}
			values := types.NewMethodSet(obj.Type())
			for m := range types.NewMethodSet(types.NewPointer(obj.Type())).Methods() {
				if !m.Obj().Exported() {
					continue
				}
				star := "*"
				if values.Lookup(pkg, m.Obj().Name()) != nil {
					star = ""
				}
				add("method (%s%s) %s%s", star, name, m.Obj().Name(), strings.TrimPrefix(str(m.Type()), "func"))
			}
		}
	}
	return lines
}

// typeString prints t as code outside pkg's own file would, without the names
// of parameters.
func typeString(pkg *types.Package, t types.Type) string {
	qualifier := func(p *types.Package) string {
		if p == pkg {
			return ""
		}
		return p.Name()
	}
	sig, ok := t.(*types.Signature)
	if !ok {
		return types.TypeString(t, qualifier)
	}
	return types.TypeString(types.NewSignatureType(nil, nil, nil, unnamed(sig.Params()), unnamed(sig.Results()), sig.Variadic()), qualifier)
}

func unnamed(t *types.Tuple) *types.Tuple {
	var vars []*types.Var
	for v := range t.Variables() {
		typ := v.Type()
		if sig, ok := typ.(*types.Signature); ok {
			typ = types.NewSignatureType(nil, nil, nil, unnamed(sig.Params()), unnamed(sig.Results()), sig.Variadic())
		}
		vars = append(vars, types.NewParam(token.NoPos, nil, "", typ))
	}
	return types.NewTuple(vars...)
}

// undocumented lists the exported names of f that no comment speaks of. The
// comment of a group serves its constants and variables, the comment of a
// type the fields that it names.
func undocumented(f *ast.File) []string {
	var names []string
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				recv := strings.TrimPrefix(types.ExprString(d.Recv.List[0].Type), "*")
				if !ast.IsExported(recv) {
					continue
				}
				name = recv + "." + name
			}
			if d.Name.IsExported() && d.Doc == nil {
				names = append(names, name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.ValueSpec:
					for _, id := range s.Names {
						if id.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
							names = append(names, id.Name)
						}
					}
				case *ast.TypeSpec:
					if !s.Name.IsExported() {
						continue
					}
					doc := s.Doc
					if doc == nil {
						doc = d.Doc
					}
					if doc == nil {
						names = append(names, s.Name.Name)
					}
					st, ok := s.Type.(*ast.StructType)
					if !ok {
						continue
					}
					for _, field := range st.Fields.List {
						for _, id := range field.Names {
							if id.IsExported() && field.Doc == nil && field.Comment == nil && !strings.Contains(doc.Text(), id.Name) {
								names = append(names, s.Name.Name+"."+id.Name)
							}
						}
					}
				}
			}
		}
	}
	return names
}

// lineDiff marks the lines that only one of two sorted lists has.
func lineDiff(old, new []string) string {
	var b strings.Builder
	for len(old) > 0 || len(new) > 0 {
		switch {
		case len(new) == 0 || len(old) > 0 && old[0] < new[0]:
			fmt.Fprintln(&b, "-", old[0])
			old = old[1:]
		case len(old) == 0 || new[0] < old[0]:
			fmt.Fprintln(&b, "+", new[0])
			new = new[1:]
		default:
			old, new = old[1:], new[1:]
		}
	}
	return b.String()
}

// The checks above are only worth something if they see what they should.
func TestAPIChecks(t *testing.T) {
	const src = `package p
import "net/http"
// Documented.
type T struct { A, b int; C func(w http.ResponseWriter, n int) error }
type U uint8
func (t *T) M(x ...string) (n int, err error) { return }
func (U) V() {}
func (t *T) hidden() {}
type I interface { F(http.Header) }
// Group.
const ( One U = iota + 1; Two )
var Err error
func F(cb func(p []byte) bool) {}
type E struct { *T; own }
type own struct{}
type Same = T
`
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "p.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	conf := types.Config{Importer: ownImporter{t}, IgnoreFuncBodies: true}
	pkg, err := conf.Check("p", fset, []*ast.File{f}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := apiLines(pkg)
	slices.Sort(got)
	want := []string{
		"const One U = 1",
		"const Two U = 2",
		"func F(func([]byte) bool)",
		"method (*T) M(...string) (int, error)",
		"method (E) M(...string) (int, error)",
		"method (U) V()",
		"type E struct",
		"type E struct, embedded *T",
		"type I interface",
		"type I interface, F(http.Header)",
		"type Same = T",
		"type T struct",
		"type T struct, A int",
		"type T struct, C func(http.ResponseWriter, int) error",
		"type U uint8",
		"var Err error",
	}
	if !slices.Equal(got, want) {
		t.Errorf("API lines, want (-) and got (+):\n%s", lineDiff(want, got))
	}

	if got, want := undocumented(f), []string{"T.A", "T.C", "U", "T.M", "U.V", "I", "Err", "F", "E", "Same"}; !slices.Equal(got, want) {
		t.Errorf("undocumented: %v, want %v", got, want)
	}
}
