package etcd

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

func TestKeys(t *testing.T) {
	k := keys{"/p"}
	for _, p := range prefixes("10.244.1.0/24", "fd00:1:0:7::/64", "::/1") {
		if back, ok := k.subnetOf(k.subnet(p)); !ok || back != p {
			t.Errorf("%s becomes %s, %v", p, back, ok)
		}
	}
	for _, key := range []string{"/p/subnets/", "/p/subnets/10.0.0.0/24", "/p/subnets/10.0.0.1-24", "/p/subnets/10.0.0.0-33", "/q/subnets/10.0.0.0-24", "/p/subnets/10.0.0.0"} {
		if p, ok := k.subnetOf(key); ok {
			t.Errorf("%s is %s", key, p)
		}
	}
	first, end := k.watched()
	for key, want := range map[string]bool{k.config(): true, k.node("a"): true, k.node("~"): true, k.subnet(netip.MustParsePrefix("::/1")): false, "/p": false} {
		if got := first <= key && key < end; got != want {
			t.Errorf("%s is watched: %v", key, got)
		}
	}
}

func TestUnreadableSubnetKeyIsTaken(t *testing.T) {
	kv := &mvccpb.KeyValue{Key: []byte("/p/subnets/10.0.0.0-24"), Value: []byte(`{"node":"a",`), ModRevision: 7}
	got, ok := keys{"/p"}.held(kv)
	if want := (held{prefix: netip.MustParsePrefix("10.0.0.0/24"), modified: 7}); !ok || got != want {
		t.Errorf("got %v, %v", got, ok)
	}
}

func TestParseRecord(t *testing.T) {
	good := record{Version: 1, Host: "h", Instance: "i", Addresses: address(1), Subnets: prefixes("10.0.0.0/24")}
	got, err := parseRecord([]byte(encode(good)))
	if err != nil || got.Host != "h" || !slices.Equal(got.Subnets, good.Subnets) || !slices.Equal(got.Addresses, good.Addresses) {
		t.Errorf("got %v, %v", got, err)
	}
	for text, want := range map[string]string{
		"":                              "unexpected end of JSON input",
		`{"version":2,"subnets":[]}`:    "format 2 is newer than the 1 that this overlayd knows: update it",
		`{"addresses":["192.0.2.1"]}`:   "version, addresses or subnets are missing",
		`{"version":1,"subnets":null}`:  "version, addresses or subnets are missing",
		`{"version":1,"subnets":["x"]}`: `netip.ParsePrefix("x"): no '/'`,
	} {
		if _, err := parseRecord([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
	if _, err := parseRecord([]byte(`{"version":1,"new":{},"addresses":["192.0.2.1"],"subnets":["10.0.0.0/24"]}`)); err != nil {
		t.Errorf("a field that is not known: %v", err)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(encode(record{Version: 1, Host: "h", Addresses: address(1), Subnets: prefixes("10.0.0.0/24")})))
	f.Add([]byte(`{"version":1,"addresses":["fe80::1%eth0"],"subnets":["::/0","::ffff:1.2.3.4/128"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		s := newSession()
		s.putOther(entry{record: r, name: "a"}, nil)
		if nodes, err := s.set.Nodes(); (err == nil) != (len(nodes) == 1) {
			t.Errorf("%d nodes, error %v", len(nodes), err)
		}
	})
}

// newSession is a session of no host, without a connection.
func newSession() *session {
	return &session{Registry: &Registry{}, set: registry.NewSet(), hosts: map[string]entry{}}
}

func TestSetLeavesOutWhatContradicts(t *testing.T) {
	type e struct {
		name     string
		address  byte
		subnet   string
		modified int64
	}
	tests := map[string]struct {
		entries     []e
		want, error string
	}{
		"none":                  {nil, "", ""},
		"all well":              {[]e{{"b", 2, "10.0.2.0/24", 2}, {"a", 1, "10.0.1.0/24", 1}}, "a b", ""},
		"same address":          {[]e{{"a", 1, "10.0.1.0/24", 1}, {"b", 1, "10.0.2.0/24", 2}, {"c", 3, "10.0.3.0/24", 0}}, "b c", `node "a": address 192.0.2.1 is also the address of node "b"`},
		"same address, b was":   {[]e{{"a", 1, "10.0.1.0/24", 2}, {"b", 1, "10.0.2.0/24", 1}}, "a", `node "b": address 192.0.2.1 is also the address of node "a"`},
		"overlapping subnets":   {[]e{{"a", 1, "10.0.0.0/16", 1}, {"b", 2, "10.0.2.0/24", 2}, {"c", 3, "10.0.3.0/24", 3}}, "b c", "overlaps"},
		"subnet no host may":    {[]e{{"a", 1, "224.0.0.0/24", 1}, {"b", 2, "10.0.2.0/24", 2}}, "b", "unicast"},
		"name no host may have": {[]e{{"a/b", 1, "10.0.1.0/24", 1}, {"b", 2, "10.0.2.0/24", 2}}, "b", "is not a node name"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSession()
			for _, e := range tt.entries {
				s.putOther(entry{name: e.name, modified: e.modified, record: record{
					Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, e.address})}, Subnets: prefixes(e.subnet)}}, nil)
			}
			nodes, err := s.set.Nodes()
			if got := (view{nodes: nodes}).names(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if (err == nil) != (tt.error == "") || !strings.Contains(text(err), tt.error) {
				t.Errorf("error %v, want %s", err, tt.error)
			}
		})
	}
}

func TestSetTellsWhatMatters(t *testing.T) {
	s := newSession()
	a := entry{name: "a", record: record{Addresses: address(1), Subnets: prefixes("10.0.0.0/24")}}
	other := a
	other.Instance, other.modified = "restarted", 9
	moved := a
	moved.Addresses = address(2)
	bad := errors.New("bad")
	steps := []struct {
		name string
		does func() bool
		want bool
	}{
		{"new", func() bool { return s.putOther(a, nil) }, true},
		{"the same", func() bool { return s.putOther(a, nil) }, false},
		{"restarted", func() bool { return s.putOther(other, nil) }, false},
		{"moved", func() bool { return s.putOther(moved, nil) }, true},
		{"broken", func() bool { return s.putOther(entry{name: "a"}, bad) }, true},
		{"broken again", func() bool { return s.putOther(entry{name: "a"}, bad) }, false},
		{"mended", func() bool { return s.putOther(moved, nil) }, true},
		{"gone", func() bool { return s.removeNode("a", 0) }, true},
		{"still gone", func() bool { return s.removeNode("a", 0) }, false},
		{"broken from the start", func() bool { return s.putOther(entry{name: "b"}, bad) }, true},
		{"gone, too", func() bool { return s.removeNode("b", 0) }, true},
	}
	for _, step := range steps {
		if got := step.does(); got != step.want {
			t.Errorf("%s: changed is %v", step.name, got)
		}
		_, _ = s.set.Nodes()
	}
}

func TestOptions(t *testing.T) {
	good := Options{Endpoints: []string{"https://192.0.2.1:2379"}, Node: "a"}
	tests := map[string]struct {
		change func(*Options)
		want   string
	}{
		"defaults":          {func(*Options) {}, ""},
		"several":           {func(o *Options) { o.Endpoints = []string{"http://a:1", "http://[fd00::1]:2/"} }, ""},
		"socket":            {func(o *Options) { o.Endpoints = []string{"unix:///run/etcd.sock"} }, ""},
		"no endpoint":       {func(o *Options) { o.Endpoints = nil }, "no endpoint of etcd is given: expected URLs of its members, such as https://192.0.2.1:2379"},
		"no scheme":         {func(o *Options) { o.Endpoints = []string{"192.0.2.1:2379"} }, `"192.0.2.1:2379" is not an endpoint of etcd: expected a URL such as https://192.0.2.1:2379`},
		"name as scheme":    {func(o *Options) { o.Endpoints = []string{"etcd:2379"} }, `endpoint "etcd:2379" of etcd begins with neither https:// nor http://: expected a URL such as https://192.0.2.1:2379`},
		"no port":           {func(o *Options) { o.Endpoints = []string{"https://192.0.2.1"} }, `endpoint "https://192.0.2.1" of etcd has no host or no port: expected a URL such as https://192.0.2.1:2379`},
		"path":              {func(o *Options) { o.Endpoints = []string{"https://192.0.2.1:2379/v2"} }, `endpoint "https://192.0.2.1:2379/v2" of etcd has more than scheme, host and port: expected a URL such as https://192.0.2.1:2379`},
		"mixed":             {func(o *Options) { o.Endpoints = append(o.Endpoints, "http://b:1") }, "endpoints https://192.0.2.1:2379 and http://b:1 of etcd differ in their scheme: give https for all"},
		"TLS for nothing":   {func(o *Options) { o.Endpoints, o.TLS.CAFile = []string{"http://b:1"}, "ca" }, "endpoint http://b:1 of etcd is not encrypted, but files for TLS are given: write https, or leave out the files"},
		"no key":            {func(o *Options) { o.TLS.CertFile = "c" }, `the client certificate for etcd is "c" and its key "": give both files or none`},
		"no password":       {func(o *Options) { o.User = "u" }, `the user for etcd is "u" and the password file "": give both or none`},
		"prefix ends":       {func(o *Options) { o.Prefix = "/a/b/" }, ""},
		"prefix is no path": {func(o *Options) { o.Prefix = "/a//b" }, `"/a//b" is not a prefix for keys in etcd: expected a path such as /overlay-cni`},
		"root":              {func(o *Options) { o.Prefix = "/" }, `"" is not a prefix for keys in etcd: expected a path such as /overlay-cni`},
		"no name":           {func(o *Options) { o.Node = "" }, "the name is empty: write 1 to 253 letters, digits, '-', '_' and '.', beginning with a letter or digit"},
		"TTL too short":     {func(o *Options) { o.TTL = time.Second }, "the time to live of this host's lease is 1s: expected whole seconds, at least 10s, such as 1h0m0s"},
		"TTL not whole":     {func(o *Options) { o.TTL = 10*time.Second + 1 }, "the time to live of this host's lease is 10.000000001s: expected whole seconds, at least 10s, such as 1h0m0s"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o := good
			tt.change(&o)
			done, err := o.complete()
			if text(err) != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if err == nil && (done.Prefix == "" || strings.HasSuffix(done.Prefix, "/") || done.TTL == 0 || done.Log == nil) {
				t.Errorf("not complete: %+v", done)
			}
		})
	}
	if r, err := New(Options{}); r != nil || err == nil {
		t.Errorf("New takes nothing for an answer: %v", err)
	}
}

func TestHostIdentity(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const id = "0123456789abcdef0123456789abcdef"
	none, early, good := filepath.Join(dir, "none"), write("early", "uninitialized\n"), write("good", id+"\n")
	got, err := hostIdentity([]string{none, early, good})
	if err != nil || len(got) != 32 || strings.Contains(got, id) {
		t.Errorf("got %q, %v", got, err)
	}
	if other, _ := hostIdentity([]string{write("other", strings.Repeat("a", 32))}); other == got {
		t.Error("two machines have one identity")
	}
	want := "none of " + none + ", " + early + " holds a machine id, which tells this host from others of the same name: run systemd-machine-id-setup, or set the host's id in the configuration"
	if _, err := hostIdentity([]string{none, early}); text(err) != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestPasswordFile(t *testing.T) {
	if got, err := readPassword(passwordFile(t, " with spaces ")); got != " with spaces " || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	empty := passwordFile(t, "")
	if _, err := readPassword(empty); text(err) != "the password file "+empty+" for etcd is empty: write the password into its first line" {
		t.Errorf("got %v", err)
	}
	if _, err := readPassword("/nowhere"); text(err) != "read the password for etcd: open /nowhere: no such file or directory" {
		t.Errorf("got %v", err)
	}
}

// A member that lags once was not restored from a backup.
func TestRevisions(t *testing.T) {
	s := newSession()
	s.revision = 10
	for _, step := range []struct {
		revision int64
		ok       bool
	}{{12, true}, {11, true}, {12, true}, {11, true}, {11, false}} {
		err := s.apply(clientv3.WatchResponse{Header: &pb.ResponseHeader{Revision: step.revision}}, true)
		if (err == nil) != step.ok {
			t.Errorf("revision %d: %v", step.revision, err)
		}
	}
}

// Two hosts may remember different configurations. While the configuration in etcd
// can't be read, no host takes a subnet by a remembered one.
func TestBrokenConfigurationAllowsWhatIsHeld(t *testing.T) {
	remembered, err := parseConfig("k", []byte(config4))
	if err != nil {
		t.Fatal(err)
	}
	s := &session{Registry: &Registry{process: process{config: &remembered}}, configErr: errTest}
	s.own = &entry{record: record{Subnets: prefixes("10.9.0.0/25", "fd00::/64")}}
	c, err := choose(chooseInput{config: s.effectiveConfig(), names: []string{"a"}, prefer: prefixes("10.244.0.0/24")}, nil)
	if err != nil || !slices.Equal(c.subnets, s.own.Subnets) {
		t.Errorf("got %v, %v", c.subnets, err)
	}
}
