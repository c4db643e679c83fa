package jsontext

import (
	"encoding/json"
	"testing"
)

func TestWriter(t *testing.T) {
	var w Writer
	w.Open('{')
	w.Key("list")
	w.Open('[')
	w.Int(1)
	w.Text("two")
	w.Open('{')
	w.Close('}')
	w.Raw([]byte("null"))
	w.Close(']')
	w.Member("empty", "")
	w.Member("key", "value")
	w.Close('}')
	if want := `{"list":[1,"two",{},null],"key":"value"}`; string(w.Buf) != want {
		t.Errorf("got  %s\nwant %s", w.Buf, want)
	}
}

// FuzzText looks whether encoding/json reads what it would have written.
func FuzzText(f *testing.F) {
	f.Add("plain")
	f.Add("quotes \" and \\ and \n\x00\x7f\u2028")
	f.Add("\xff\xfe")
	f.Fuzz(func(t *testing.T, text string) {
		var w Writer
		w.Text(text)
		theirs, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		var got, want string
		if err := json.Unmarshal(w.Buf, &got); err != nil {
			t.Fatalf("%q: %v", w.Buf, err)
		}
		if err := json.Unmarshal(theirs, &want); err != nil || got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	})
}
