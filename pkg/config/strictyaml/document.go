package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// maxSize is far above any real file (20,000 nodes are 2 MB) and keeps a
// wrong path, such as that of a disk image, from filling the memory.
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

// Document returns the root value of the one document in data; nil if the data
// is empty, or if it is malformed, which counts as a mistake.
func (r *Reader) Document(data []byte) *yaml.Node {
	docs, err := decode(data)
	if err != nil {
		r.mistakes = append(r.mistakes, &Mistake{File: r.file, Line: malformedLine(data), Err: malformed(err)})
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

// decode reads the first two documents: more than one is a mistake anyway.
func decode(data []byte) ([]*yaml.Node, error) {
	return decodeFrom(bytes.NewReader(data))
}

func decodeFrom(in io.Reader) ([]*yaml.Node, error) {
	decoder := yaml.NewDecoder(in)
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

// yamlPrefix is what the library puts before its messages. Its line is that of
// the enclosing value for some mistakes, one too low for others and missing
// for the rest, so malformedLine looks for the line itself.
var yamlPrefix = regexp.MustCompile(`^yaml: (line \d+: )?`)

func malformed(err error) error {
	what := yamlPrefix.ReplaceAllString(err.Error(), "")
	return fmt.Errorf("malformed YAML: %s: check the indentation, quotes and brackets from here on", what)
}

// malformedLine finds the line where a malformed file goes wrong: the one
// after the longest beginning that can be read, so for a bracket that is never
// closed it is the line that opens it.
//
// It steps back from where the library gave up, in steps of double length
// because a quote that is not closed swallows the rest of the file, and then
// halves the distance between a beginning that can be read and one that can't.
func malformedLine(data []byte) int {
	ends := lineEnds(data)
	readable := func(lines int) bool {
		if lines == 0 {
			return true
		}
		_, err := decode(data[:ends[lines-1]])
		return err == nil
	}
	bad := bytes.Count(data[:consumed(data)], []byte("\n")) + 1
	bad = min(bad, len(ends))
	good := bad - 1
	for step := 1; !readable(good); step *= 2 {
		bad, good = good, max(0, good-step)
	}
	for bad-good > 1 {
		middle := (good + bad) / 2
		if readable(middle) {
			good = middle
		} else {
			bad = middle
		}
	}
	return bad
}

// lineEnds lists the offset behind each line.
func lineEnds(data []byte) []int {
	var ends []int
	for i, c := range data {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	if len(ends) == 0 || ends[len(ends)-1] < len(data) {
		ends = append(ends, len(data))
	}
	return ends
}

// consumed is how many bytes the library reads before it gives up.
func consumed(data []byte) int {
	in := &byteReader{data: data}
	_, _ = decodeFrom(in) // the caller knows that it fails
	return in.offset
}

// byteReader hands out one byte at a time, so that its offset shows how far
// the reading side has come.
type byteReader struct {
	data   []byte
	offset int
}

func (b *byteReader) Read(p []byte) (int, error) {
	if b.offset == len(b.data) {
		return 0, io.EOF
	}
	n := copy(p[:min(1, len(p))], b.data[b.offset:])
	b.offset += n
	return n, nil
}
