package hosts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// etcdURL is on the switch, which all hosts reach.
func etcdURL(segments []netip.Prefix) string {
	return "http://" + netip.AddrPortFrom(segments[0].Addr(), 2379).String()
}

// byEtcd starts daemons that are told only where etcd is.
func byEtcd(c *lab.Config) {
	c.DaemonArgs = append(c.DaemonArgs, "--registry-type", "etcd", "--registry-etcd-endpoints", etcdURL(c.Segments))
}

// etcdServer runs in a namespace.
type etcdServer struct {
	*fleet
	ns   *sandbox.Netns
	url  string
	dir  string
	cmd  *exec.Cmd
	http *http.Client
}

func newEtcd(f *fleet) *etcdServer {
	f.t.Helper()
	e := &etcdServer{fleet: f, ns: f.lab.Switch(), url: etcdURL(f.lab.Segments()), dir: f.t.TempDir()}
	e.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: e.dial}}
	e.start()
	f.t.Cleanup(e.stop)
	return e
}

// dial connects from within the namespace.
func (e *etcdServer) dial(_ context.Context, network, address string) (conn net.Conn, err error) {
	err = e.ns.Do(func() error {
		conn, err = net.Dial(network, address)
		return err
	})
	return conn, err
}

func (e *etcdServer) start() {
	e.t.Helper()
	e.cmd = exec.Command(filepath.Join("..", "..", "bin", "etcd"), "--data-dir", e.dir, "--unsafe-no-fsync", "--log-level", "error",
		"--listen-client-urls", e.url, "--advertise-client-urls", e.url, "--listen-peer-urls", "http://127.0.0.1:2380")
	e.must(e.ns.Start(e.cmd))
}

func (e *etcdServer) stop() {
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}

// ask sends a request to etcd's JSON gateway, until etcd answers.
func (e *etcdServer) ask(ctx context.Context, method string, request map[string][]byte, answer any) {
	e.t.Helper()
	body, err := json.Marshal(request)
	e.must(err)
	e.must(probe.Eventually(ctx, func(context.Context) error {
		r, err := e.http.Post(e.url+"/v3/kv/"+method, "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("etcd answers %s", r.Status)
		}
		return json.NewDecoder(r.Body).Decode(answer)
	}))
}

func (e *etcdServer) put(ctx context.Context, key, value string) {
	e.t.Helper()
	e.ask(ctx, "put", map[string][]byte{"key": []byte(key), "value": []byte(value)}, &struct{}{})
}

// keyValue is a key and its value in an answer, where JSON has both in base64.
type keyValue struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value"`
}

func (e *etcdServer) find(ctx context.Context, request map[string][]byte) []keyValue {
	e.t.Helper()
	var found struct {
		KVs []keyValue `json:"kvs"`
	}
	e.ask(ctx, "range", request, &found)
	return found.KVs
}

// keys are those of the network.
func (e *etcdServer) keys(ctx context.Context) []string {
	e.t.Helper()
	var all []string
	for _, kv := range e.find(ctx, map[string][]byte{"key": []byte("/overlay-cni/"), "range_end": []byte("/overlay-cni0")}) {
		all = append(all, string(kv.Key))
	}
	return all
}

// announced are the addresses in a host's entry.
func (e *etcdServer) announced(ctx context.Context, h *lab.Host) []netip.Addr {
	e.t.Helper()
	found := e.find(ctx, map[string][]byte{"key": []byte("/overlay-cni/nodes/" + h.Name)})
	if len(found) != 1 {
		e.t.Fatalf("%s has %d entries", h.Name, len(found))
	}
	var record struct {
		Addresses []netip.Addr `json:"addresses"`
	}
	e.must(json.Unmarshal(found[0].Value, &record))
	return record.Addresses
}

// Hosts that know only where etcd is get subnets and find each other. They keep
// working while etcd is down.
func TestDaemonWithEtcd(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newIdleFleet(t, 2, m.set, byEtcd, noResync)
		ctx := withPatience(t)
		etcd := newEtcd(f)
		settings := "networks: [" + quoted(m.prefixes("10.99.0.0/16", "fd99::/48")) + "]\nsettings: {vxlan: {vni: %d}}\n"
		etcd.put(ctx, "/overlay-cni/config", fmt.Sprintf(settings, 7))
		vni := func(want int) func(context.Context) error {
			return func(context.Context) error {
				return f.tunnels(f.hosts[0], tunnel, func(v *netlink.Vxlan) bool { return v.VxlanId == want })
			}
		}
		for _, h := range f.hosts {
			_, err := h.StartDaemon(ctx, "--registry-etcd-host-id", h.Name)
			f.must(err)
			f.pods = append(f.pods, f.addPod(ctx, h, "pod"))
		}
		reach := func(ctx context.Context) error {
			return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
		}
		f.must(probe.Eventually(ctx, reach))
		f.must(vni(7)(ctx))
		had := f.published(f.hosts[0]).Subnets
		if len(had) != len(m.subnets) || had[0].Bits() != map[bool]int{true: 24, false: 64}[m.hasIPv4()] {
			t.Errorf("the host has the subnets %v", had)
		}

		etcd.stop()
		late := f.addPod(ctx, f.hosts[0], "late")
		f.ping(ctx, late, f.pods[1])
		// A daemon that starts while etcd is down admits pods as before.
		f.must(f.hosts[0].Daemon().Kill())
		f.launch(f.hosts[0], "--registry-etcd-host-id", f.hosts[0].Name)
		f.must(f.hosts[0].Daemon().Log.Wait(ctx, "waiting for the registry"))
		later := f.addPod(ctx, f.hosts[0], "later")
		f.ping(ctx, later, f.pods[1])

		etcd.start()
		etcd.put(ctx, "/overlay-cni/config", fmt.Sprintf(settings, 8))
		f.must(probe.Eventually(ctx, vni(8)))
		f.must(probe.Eventually(ctx, reach))
		if have := f.published(f.hosts[0]).Subnets; fmt.Sprint(have) != fmt.Sprint(had) {
			t.Errorf("the host has the subnets %v, and had %v", have, had)
		}
		if got, want := etcd.announced(ctx, f.hosts[0]), f.hosts[0].Addresses(); !slices.Equal(got, want) {
			t.Errorf("the host announces %v, and has %v", got, want)
		}
		if len(m.subnets) == 2 {
			etcd.put(ctx, "/overlay-cni/config", strings.Replace(fmt.Sprintf(settings, 8), "settings: {", "settings: {underlayFamily: ipv6, ", 1))
			f.must(probe.Eventually(ctx, func(context.Context) error { return sendsFrom(f.hosts[0], f.hosts[0].Addresses()[1]) }))
			f.must(probe.Eventually(ctx, reach))
		}
	})
}
