package plugin

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
)

// A result has what the version of the specification asks for: before 1.0.0 each
// address names its IP version.
func TestResult(t *testing.T) {
	const interfaces = `"interfaces": [{"name": "cni0", "mac": "62:2f:8e:f1:2f:f6"@MTU}, {"name": "veth0", "mac": "02:00:00:00:00:01"@MTU},
		{"name": "eth0", "mac": "02:00:00:00:00:02"@MTU, "sandbox": "/run/netns/x"}]`
	const rest = `"routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}], "dns": {"nameservers": ["10.96.0.10"], "search": ["x \"y\""]}`
	const address = `"ips": [{@VERSION"interface": 2, "address": "10.244.1.2/32", "gateway": "10.244.1.1"}]`
	for _, tt := range []struct{ version, mtu, ip string }{
		{"0.3.1", "", `"version": "4", `},
		{"0.4.0", "", `"version": "4", `},
		{"1.0.0", `, "mtu": 1450`, ""},
		{"1.1.0", `, "mtu": 1450`, ""},
	} {
		c := conf{CNIVersion: tt.version, DNS: json.RawMessage(`{"nameservers":["10.96.0.10"],"search":["x \"y\""]}`)}
		r, err := c.result(someNetwork(), somePort(), "/run/netns/x")
		if err != nil {
			t.Fatal(err)
		}
		want := `{"cniVersion": "` + tt.version + `", ` + strings.ReplaceAll(interfaces, "@MTU", tt.mtu) + ", " + strings.ReplaceAll(address, "@VERSION", tt.ip) + ", " + rest + "}"
		if diff := cmp.Diff(decoded(t, []byte(want)), decoded(t, printed(t, r))); diff != "" {
			t.Errorf("%s (- want, + got):\n%s", tt.version, diff)
		}
	}
}

func printed(t *testing.T, r types.Result) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := r.PrintTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func decoded(t *testing.T, text []byte) (value any) {
	t.Helper()
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return value
}
