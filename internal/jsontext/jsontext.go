// Package jsontext reads and writes JSON without reflection. encoding/json needs
// some hundred microseconds to learn the types that it meets for the first time,
// which a process that does so once has no use for.
package jsontext

import (
	"strconv"
	"unicode/utf8"
)

// Writer appends JSON to Buf. The caller opens and closes objects and lists in
// pairs; commas are the Writer's.
type Writer struct {
	Buf   []byte
	comma bool
}

// Open begins an object '{' or a list '['.
func (w *Writer) Open(bracket byte) {
	w.separate()
	w.Buf = append(w.Buf, bracket)
	w.comma = false
}

// Close ends one with '}' or ']'.
func (w *Writer) Close(bracket byte) {
	w.Buf = append(w.Buf, bracket)
	w.comma = true
}

// Key begins a member of an object; its value has to follow.
func (w *Writer) Key(name string) {
	w.separate()
	w.quote(name)
	w.Buf = append(w.Buf, ':')
	w.comma = false
}

// Text writes a string value.
func (w *Writer) Text(v string) {
	w.separate()
	w.quote(v)
}

// Int writes a number.
func (w *Writer) Int(v int) {
	w.separate()
	w.Buf = strconv.AppendInt(w.Buf, int64(v), 10)
}

// Raw writes a value that is JSON already.
func (w *Writer) Raw(v []byte) {
	w.separate()
	w.Buf = append(w.Buf, v...)
}

// Member writes a key and a string; nothing if the string is empty.
func (w *Writer) Member(key, v string) {
	if v != "" {
		w.Key(key)
		w.Text(v)
	}
}

func (w *Writer) separate() {
	if w.comma {
		w.Buf = append(w.Buf, ',')
	}
	w.comma = true
}

const hexDigits = "0123456789abcdef"

// quote writes a string by RFC 8259, 7. What is no UTF-8 becomes U+FFFD, as
// with encoding/json.
func (w *Writer) quote(s string) {
	w.Buf = append(w.Buf, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			w.Buf = append(w.Buf, '\\', byte(r))
		case r < ' ':
			w.Buf = append(w.Buf, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&0xf])
		default:
			w.Buf = utf8.AppendRune(w.Buf, r)
		}
	}
	w.Buf = append(w.Buf, '"')
}
