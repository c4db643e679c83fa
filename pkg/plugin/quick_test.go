package plugin

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// usual is a configuration as runtimes hand it over, with every key.
const usual = `{"cniVersion":"1.1.0","name":"net","type":"overlay-cni","runDir":"/run/x","bridge":"b","mtu":1400,"waitSeconds":3,
	"ipam":{"type":"overlay-cni","subnet":"10.0.0.0/24","ranges":[[{"subnet":"10.244.1.0/24","rangeStart":"10.244.1.5","rangeEnd":"10.244.1.9",
	"gateway":"10.244.1.1","exclude":["10.244.1.6","10.244.1.8/31"]}],[{"subnet":"fd00::/64"}]],"routes":[{"dst":"10.0.0.0/8"},{"dst":"fd01::/48","gw":"fd00::2"}]},
	"dns":{"nameservers":["10.0.0.1"]},"prevResult":{"ips":[]},"runtimeConfig":{"mac":"02:00:00:00:00:01"},"args":{"cni":{"ips":[]}},
	"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}],"capabilities":{"mac":true}}`

func TestTheUsualIsReadQuickly(t *testing.T) {
	if _, ok := quickConf([]byte(usual)); !ok {
		t.Error("encoding/json has to read it")
	}
}

// FuzzQuickConf looks whether a configuration that is read quickly is what
// encoding/json reads.
func FuzzQuickConf(f *testing.F) {
	f.Add([]byte(usual))
	f.Add([]byte(`{"name":"a","ipam":{"ranges":[[],[{}]],"routes":[]},"dns":0}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, ok := quickConf(data)
		if !ok {
			return
		}
		want := &conf{}
		if err := json.Unmarshal(data, want); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(conf{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s:\n%s", data, diff)
		}
	})
}
