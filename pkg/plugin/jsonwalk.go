package plugin

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// The functions below walk over JSON that was decoded before, so it is well-formed.
// What is no object has no keys, and what is no array has no items.

// eachKey calls visit for each key of an object and its value, until visit returns
// an error.
func eachKey(object []byte, visit func(key string, value []byte) error) error {
	return each(object, '{', func(rest []byte) ([]byte, error) {
		name, rest := cutValue(rest)
		value, rest := cutValue(skip(rest, ":"))
		key := string(bytes.Trim(name, `"`))
		if bytes.ContainsFunc(name, func(r rune) bool { return r == '\\' || r >= utf8.RuneSelf }) {
			_ = json.Unmarshal(name, &key) // well-formed, see above
		}
		return rest, visit(key, value)
	})
}

// eachItem calls visit for each item of an array, until visit returns an error.
func eachItem(array []byte, visit func(item []byte) error) error {
	return each(array, '[', func(rest []byte) ([]byte, error) {
		item, rest := cutValue(rest)
		return rest, visit(item)
	})
}

func each(data []byte, open byte, next func(rest []byte) ([]byte, error)) error {
	rest := skip(data, "")
	if len(rest) == 0 || rest[0] != open {
		return nil
	}
	var err error
	for rest = skip(rest[1:], ","); err == nil && len(rest) > 0 && rest[0] != open+2; rest = skip(rest, ",") {
		rest, err = next(rest) // in ASCII, ] and } are two after [ and {
	}
	return err
}

// skip leaves out white space and the given punctuation.
func skip(data []byte, punctuation string) []byte { return bytes.TrimLeft(data, " \t\r\n"+punctuation) }

// cutValue cuts off the value at the beginning of data.
func cutValue(data []byte) (value, rest []byte) {
	depth, text := 0, false
	for i := 0; i < len(data); i++ {
		switch b := data[i]; {
		case text && b == '\\':
			i++
		case b == '"':
			text = !text
		case text:
		case b == '{', b == '[':
			depth++
		case depth == 0 && bytes.IndexByte([]byte(",:]} \t\r\n"), b) >= 0:
			return data[:i], data[i:]
		case b == '}', b == ']':
			depth--
		}
	}
	return data, nil
}
