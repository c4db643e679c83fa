package jsontext

import (
	"encoding/json"
	"strconv"
)

// Reader goes through a JSON text, value by value in the text's order. It takes
// the plain texts that people and programs write: whatever is unusual or not
// as expected makes Read report false, and encoding/json has to read the text,
// or say what is wrong with it.
type Reader struct {
	data []byte
	pos  int
	odd  bool
}

// Read has data read by fn. If it returns false, what fn got must not be used.
func Read(data []byte, fn func(*Reader)) bool {
	if !json.Valid(data) {
		return false
	}
	r := Reader{data: data}
	fn(&r)
	return !r.odd
}

// Odd gives the text up.
func (r *Reader) Odd() { r.odd = true }

// Object reads an object. It calls member for each key; that has to read the
// value. Keys that come twice are odd.
func (r *Reader) Object(member func(key string)) {
	var seen []string
	r.items('{', '}', func() {
		key := r.Text()
		for _, k := range seen {
			r.odd = r.odd || k == key
		}
		seen = append(seen, key)
		r.take(':')
		member(key)
	})
}

// List reads a list. It calls element for each value, which that has to read.
func (r *Reader) List(element func()) { r.items('[', ']', element) }

func (r *Reader) items(first, last byte, item func()) {
	if !r.take(first) {
		r.Odd()
		return
	}
	if r.take(last) {
		return
	}
	for !r.odd {
		item()
		if !r.take(',') {
			r.take(last)
			return
		}
	}
}

// Text reads a string. One with escapes, or other characters than those of
// ASCII, is odd.
func (r *Reader) Text() string {
	if !r.take('"') {
		r.Odd()
		return ""
	}
	start := r.pos
	for ; r.pos < len(r.data) && r.data[r.pos] != '"'; r.pos++ {
		if c := r.data[r.pos]; c == '\\' || c >= 0x80 {
			r.Odd()
			return ""
		}
	}
	text := string(r.data[start:r.pos])
	r.pos++
	return text
}

// Int reads a whole number.
func (r *Reader) Int() int {
	n, err := strconv.Atoi(string(r.Raw()))
	r.odd = r.odd || err != nil
	return n
}

// Raw reads any value but null, as the part of the text that it is.
func (r *Reader) Raw() []byte {
	r.space()
	start, depth := r.pos, 0
	for ; r.pos < len(r.data); r.pos++ {
		c := r.data[r.pos]
		if depth == 0 && r.pos > start && isEnd(c) {
			break
		}
		switch c {
		case '"':
			r.skipText()
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
	}
	raw := r.data[start:r.pos]
	r.odd = r.odd || string(raw) == "null"
	return raw
}

// isEnd tells whether a value is over before c. That is so too after a bracket
// or quotation mark, which only these can follow.
func isEnd(c byte) bool {
	return c == ',' || c == '}' || c == ']' || c == ' ' || c == '\n' || c == '\r' || c == '\t'
}

// skipText goes to the quotation mark that ends a string.
func (r *Reader) skipText() {
	for r.pos++; r.pos < len(r.data) && r.data[r.pos] != '"'; r.pos++ {
		if r.data[r.pos] == '\\' {
			r.pos++
		}
	}
}

// take reads one character that structures the text, if it is the next one.
func (r *Reader) take(c byte) bool {
	r.space()
	if r.pos == len(r.data) || r.data[r.pos] != c {
		return false
	}
	r.pos++
	return true
}

func (r *Reader) space() {
	for r.pos < len(r.data) && (r.data[r.pos] == ' ' || r.data[r.pos] == '\n' || r.data[r.pos] == '\r' || r.data[r.pos] == '\t') {
		r.pos++
	}
}
