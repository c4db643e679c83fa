package jsontext

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sample has a member of each kind that a Reader can read.
type sample struct {
	Text string          `json:"text"`
	Int  int             `json:"int"`
	List []string        `json:"list"`
	Raw  json.RawMessage `json:"raw"`
	Sub  *sample         `json:"sub"`
}

func (s *sample) read(r *Reader) {
	r.Object(func(key string) {
		switch key {
		case "text":
			s.Text = r.Text()
		case "int":
			s.Int = r.Int()
		case "list":
			r.List(func() { s.List = append(s.List, r.Text()) })
		case "raw":
			s.Raw = r.Raw()
		case "sub":
			s.Sub = &sample{}
			s.Sub.read(r)
		default:
			r.Odd()
		}
	})
}

func TestReader(t *testing.T) {
	for _, tc := range []struct {
		text string
		ok   bool
	}{
		{`{}`, true},
		{` {"text":"a b","int":-12 , "list" : [ "x","y" ],"raw":{"a":[1,"]\\\"}"]},"sub":{"list":[],"raw":1}} `, true},
		{"{\"raw\":\t\"text\"\n,\"int\":0}", true},
		{`{"text":"\u0041"}`, false},
		{`{"text":"ä"}`, false},
		{`{"text":1}`, false},
		{`{"text":null}`, false},
		{`{"raw":null}`, false},
		{`{"int":1.5}`, false},
		{`{"int":"1"}`, false},
		{`{"list":{}}`, false},
		{`{"list":"x"}`, false},
		{`{"sub":[]}`, false},
		{`{"Text":"a"}`, false},
		{`{"text":"a","text":"b"}`, false},
		{`{"text":"a"`, false},
		{`{"text":"a"}}`, false},
		{`[]`, false},
		{``, false},
	} {
		var s sample
		if ok := Read([]byte(tc.text), s.read); ok != tc.ok {
			t.Errorf("%s: %v", tc.text, ok)
		}
	}
}

// FuzzReader looks whether what is read is what encoding/json reads.
func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"text":"a","int":7,"list":["x"],"raw":{"a":[1,"}"]},"sub":{"raw":true}}`))
	f.Add([]byte(`{"int":-0,"raw":[[],{}],"list":[]}`))
	f.Add([]byte(`{"text":"\\","sub":{"sub":{"int":99999999999999999999}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, want sample
		if !Read(data, got.read) {
			return
		}
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s:\n%s", data, diff)
		}
	})
}
