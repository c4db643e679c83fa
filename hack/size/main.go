// Size prints how large the product is: lines of its packages, the length of its
// functions, and its direct dependencies. Tests, and what only tests use, do not
// count. Run it in the repository: go run ./hack/size
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() { os.Exit(run(os.Stdout, os.Stderr)) }

func run(out, errs io.Writer) int {
	var s size
	for _, root := range []string{"cmd", "internal", "pkg"} {
		if err := filepath.WalkDir(root, s.visit); err != nil {
			fmt.Fprintln(errs, "size:", err)
			return 1
		}
	}
	direct, err := directDependencies("go.mod")
	if err != nil {
		fmt.Fprintln(errs, "size:", err)
		return 1
	}
	slices.Sort(s.functions)
	fmt.Fprintf(out, "product: %d lines in %d files of %d packages\n", s.lines, s.files, len(s.packages))
	fmt.Fprintf(out, "functions: %d, median %d lines, 90th percentile %d\n",
		len(s.functions), s.percentile(50), s.percentile(90))
	fmt.Fprintf(out, "direct dependencies, those of tests included: %d\n", direct)
	return 0
}

// size is what was counted so far.
type size struct {
	lines, files int
	packages     map[string]bool
	functions    []int // lines of each, from "func" to the closing brace
}

// equipment are the folders of what serves the demo and the tests.
var equipment = []string{"internal/lab", "internal/demo"}

func (s *size) visit(path string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if entry.IsDir() && slices.Contains(equipment, path) {
		return fs.SkipDir
	}
	if !strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, ".s") || strings.HasSuffix(path, "_test.go") {
		return nil
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if s.packages == nil {
		s.packages = map[string]bool{}
	}
	s.packages[filepath.Dir(path)] = true
	s.files++
	s.lines += bytes.Count(source, []byte("\n"))
	if strings.HasSuffix(path, ".s") {
		return nil
	}
	return s.measure(path, source)
}

func (s *size) measure(path string, source []byte) error {
	positions := token.NewFileSet()
	file, err := parser.ParseFile(positions, path, source, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			s.functions = append(s.functions, positions.Position(f.End()).Line-positions.Position(f.Pos()).Line+1)
		}
	}
	return nil
}

func (s *size) percentile(p int) int {
	if len(s.functions) == 0 {
		return 0
	}
	return s.functions[(len(s.functions)-1)*p/100]
}

// directDependencies counts the modules that go.mod requires without the mark
// "// indirect".
func directDependencies(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	count := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "\t") && !strings.Contains(line, "// indirect") && strings.Contains(line, " v") {
			count++
		}
	}
	return count, nil
}
