package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxSize, in bytes, is far above any real file (20,000 nodes are 2 MB). It keeps
// a wrong path, such as the path of a disk image, from filling the memory.
const maxSize = 16 << 20

// ReadFile returns the content of a file of sane size.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err // names operation and path already
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("%s is larger than %d MiB: expected a YAML file", path, maxSize>>20)
	}
	return data, nil
}

// Document returns the root value of the one document in data. It returns nil if the
// data is empty or malformed. Malformed data is a mistake.
func (r *Reader) Document(data []byte) *yaml.Node {
	docs, err := decode(data)
	if err != nil {
		r.mistakes = append(r.mistakes, r.malformed(err))
		return nil
	}
	if len(docs) > 1 {
		r.addf(docs[1], "", "a second document begins here: keep one, and remove the line ---")
	}
	if len(docs) == 0 || isNull(docs[0].Content[0]) {
		return nil
	}
	return docs[0].Content[0]
}

// decode reads at most two documents: the second one is a mistake already.
func decode(data []byte) ([]*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var docs []*yaml.Node
	for len(docs) < 2 {
		var doc yaml.Node
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		docs = append(docs, &doc)
	}
	return docs, nil
}

// yamlPrefix matches the prefix of the library's messages. Its line may be one too
// low, or may be the line where the enclosing list or mapping begins. For a mistake in
// the first line, the prefix has no line.
var yamlPrefix = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func (r *Reader) malformed(err error) *Mistake {
	prefix := yamlPrefix.FindStringSubmatch(err.Error())
	m := &Mistake{File: r.file}
	what := err.Error()
	if prefix != nil {
		what = strings.TrimPrefix(what, prefix[0])
		m.Line, _ = strconv.Atoi(prefix[1]) // 0 without a line
	}
	m.Err = fmt.Errorf("malformed YAML: %s: check indentation, quotes and brackets near this place", what)
	return m
}
