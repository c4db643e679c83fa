package plugin

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// whole is a configuration as a runtime passes it on.
const whole = `{"cniVersion":"1.1.0","name":"overlay","type":"overlay-cni","runDir":"/run/overlay-cni",
	"capabilities":{"portMappings":true,"bandwidth":true,"ips":true,"mac":true},
	"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}}`

func TestKeys(t *testing.T) {
	ranged := func(keys string) string {
		return `"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"},{"subnet":"10.244.2.0/24",` + keys + `}]]}`
	}
	for _, tc := range []struct{ name, keys, want string }{
		{"a typing error", `"brigde":"cni1"`, `unknown key "brigde": did you mean "bridge"?`},
		{"of ipam", `"ipam":{"range":[]}`, `unknown key "ipam.range": did you mean "ranges"?`},
		{"of a range", ranged(`"rangeSart":"10.244.2.9"`), `unknown key "ipam.ranges.rangeSart": did you mean "rangeStart"?`},
		{"of a route", `"ipam":{"routes":[{"dst":"10.9.0.0/16","gateway":"10.244.1.9"}]}`, `unknown key "ipam.routes.gateway": leave it out, the keys here are dst, gw`},
		{"of a range, beside ranges", `"ipam":{"ranges":[],"rangeStart":"10.244.1.9"}`, `unknown key "ipam.rangeStart": write it inside a range`},
		{"a capability of the runtime", `"capabilities":{"io.kubernetes.cri.pod-annotations":true}`, ""},
		{"a capability of another plugin", `"capabilities":{"ipRanges":true}`, ""},
		{"bridge's gateway", `"isGateway":true`, `unknown key "isGateway": the bridge is always the pods' gateway`},
		{"bridge's masquerading", `"ipMasq":true`, `unknown key "ipMasq": overlayd masquerades`},
		{"bridge's hairpins", `"hairpinMode":true`, `unknown key "hairpinMode": pods reach themselves`},
		{"flannel's", `"delegate":{"isDefaultGateway":true}`, `unknown key "delegate": there is nothing to delegate to`},
		{"host-local's", `"ipam":{"dataDir":"/x"}`, `unknown key "ipam.dataDir": addresses are reserved in runDir`},
		{"an older form", `"ipam":{"subnet":"10.244.1.0/24","ranges":[[{"subnet":"10.244.2.0/24"}]]}`, `ipam.subnet is not supported`},
		{"nothing near", `"fruit":1`, `unknown key "fruit": leave it out, the keys here are cniVersion, name`},
		{"null asks for nothing", `"isGateway":null`, ""},
		{"case does not count", `"RunDir":"/run/x","IPAM":{"Ranges":[[{"SUBNET":"10.244.1.0/24"}]]},"cni.dev/x":1`, ""},
		{"a program's own", `"cni.dev/valid-attachments":[],"example.com/a":{}`, ""},
		{"a comment", `"_comment":"pods"`, ""},
		{"libcni's and a list's", `"prevResult":{},"args":{"labels":{}},"runtimeConfig":{"other":1},"cniVersions":[],"disableCheck":true,"disableGC":true,"loadOnlyInlinedPlugins":true`, ""},
		{"Multus'", `"deviceID":"0000:00:00.1","pciBusID":"x"`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			data := []byte(`{"type":"overlay-cni",` + tc.keys + `}`)
			c, err := parseConf(data)
			if err == nil {
				err = c.check()
			}
			reported := &types.Error{}
			switch {
			case (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want):
				t.Errorf("got  %v\nwant %s", err, tc.want)
			case err != nil && (!errors.As(err, &reported) || reported.Code != types.ErrInvalidNetworkConfig):
				t.Errorf("the error has not the code of a wrong configuration: %#v", err)
			}
			// A pod that was made with such a configuration can be removed.
			if _, err := parseForRemoval(data); err != nil {
				t.Errorf("removal: %v", err)
			}
		})
	}
}

// What comes first is reported first: without a type error there may be no keys to
// look at.
func TestKeysOfMalformedConfigurations(t *testing.T) {
	for data, want := range map[string]string{
		`{"brigde":1,"mtu":"big"}`: `key "mtu": expected a number, found string`,
		`{"brigde":1} {}`:          "invalid character",
		`{"brigde":`:               "unexpected end of JSON",
		`{} x`:                     "invalid character",
	} {
		if _, err := parseConf([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", data, err, want)
		}
	}
}

// FuzzWalk compares the walk over well-formed JSON with the decoder.
func FuzzWalk(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`{"a\\"b":[1,"]",{"x":{}}], "\\u0061" : -1.5e3 ,"":null,"t":true}`))
	f.Add([]byte(`[[{"a":1},[]],[],"]",{}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var object map[string]json.RawMessage
		var array []json.RawMessage
		if json.Unmarshal(data, &object) != nil {
			object = nil
		}
		if json.Unmarshal(data, &array) != nil {
			array = nil
		}
		if !json.Valid(data) {
			return
		}
		found := map[string]string{}
		_ = eachKey(data, func(key string, value []byte) error { found[key] = string(value); return nil })
		if len(found) != len(object) {
			t.Errorf("%s: found %q, want %q", data, found, object)
		}
		for key, value := range object {
			if found[key] != string(value) {
				t.Errorf("%s: %q is %q, want %q", data, key, found[key], value)
			}
		}
		var items []string
		_ = eachItem(data, func(item []byte) error { items = append(items, string(item)); return nil })
		if len(items) != len(array) {
			t.Fatalf("%s: %q, want %q", data, items, array)
		}
		for i := range items {
			if items[i] != string(array[i]) {
				t.Errorf("%s: item %d is %q, want %q", data, i, items[i], array[i])
			}
		}
	})
}

func BenchmarkParseConf(b *testing.B) {
	for b.Loop() {
		if _, err := parseConf([]byte(whole)); err != nil {
			b.Fatal(err)
		}
	}
}
