package runtimes

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// tool is cnitool, for one network namespace.
type tool struct {
	netns        string
	capabilities string
	args         string
}

func (c tool) try(verb string) (string, error) {
	cmd := exec.Command(filepath.Join(os.Getenv(buildEnv), "cnitool"), verb, network, c.netns)
	cmd.Env = append(os.Environ(), "CNI_PATH="+binDir, "NETCONFPATH="+confDir)
	if c.capabilities != "" {
		cmd.Env = append(cmd.Env, "CAP_ARGS="+c.capabilities)
	}
	if c.args != "" {
		cmd.Env = append(cmd.Env, "CNI_ARGS="+c.args)
	}
	var said bytes.Buffer // by the plugins; sbr says what it does
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return string(out) + said.String(), err
	}
	return string(out), nil
}

func (c tool) must(t *testing.T, verb string) string {
	t.Helper()
	out, err := c.try(verb)
	if err != nil {
		t.Fatalf("cnitool %s: %v\n%s", verb, err, out)
	}
	return out
}

func TestCnitool(t *testing.T) {
	h := newHost(t, shipped(t))
	for _, v := range []string{"", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run("version "+v, func(t *testing.T) {
			c := shipped(t)
			if v != "" {
				c.withVersion(v)
			}
			c.install(t)
			defer h.leavesNothing(t)()
			pod := tool{netns: newPodNetns(t, "pod")}
			pod.must(t, "status")
			if out := pod.must(t, "add"); v != "" && !strings.Contains(out, `"cniVersion": "`+v+`"`) {
				t.Errorf("result is not of version %s: %s", v, out)
			}
			if v != "0.3.1" { // which has no CHECK
				pod.must(t, "check")
			}
			run(t, "ip", "netns", "exec", "pod", "ip", "route", "get", "8.8.8.8")
			pod.must(t, "del")
			pod.must(t, "del")
		})
	}
}

func hostPortOf(port string) string {
	return `{"portMappings":[{"hostPort":` + port + `,"containerPort":8080,"protocol":"udp"}]}`
}

// TestCnitoolGC is of version 1.0.0, with which libcni does a DEL for every
// attachment that it remembers.
func TestCnitoolGC(t *testing.T) {
	h := newHost(t, shipped(t).withVersion("1.0.0"))
	defer h.leavesNothing(t)()
	pod := tool{netns: newPodNetns(t, "pod"), capabilities: hostPortOf("8081")}
	pod.must(t, "add")
	pod.must(t, "gc")
}

// TestCnitoolGCNamesNothing: cnitool gives no list of what is to stay, which
// the specification demands. The plugin refuses rather than removing all.
func TestCnitoolGCNamesNothing(t *testing.T) {
	h := newHost(t, shipped(t).withVersion("1.1.0"))
	defer h.leavesNothing(t)()
	pod := tool{netns: newPodNetns(t, "pod"), capabilities: hostPortOf("8081")}
	pod.must(t, "add")
	if out, err := pod.try("gc"); err == nil || !strings.Contains(out, "valid-attachments is missing") {
		t.Errorf("cnitool gc: %v: %s", err, out)
	}
}

// TestLibcniGC is what a runtime does: it says what stays. libcni has
// forgotten its attachments, so it is up to the plugin.
func TestLibcniGC(t *testing.T) {
	h := newHost(t, shipped(t).withVersion("1.1.0"))
	left := h.leavesNothing(t)
	cni := libcni.NewCNIConfigWithCacheDir([]string{binDir}, t.TempDir(), nil)
	list, err := libcni.LoadNetworkConf(confDir, network)
	check(t, err)
	stays, goes := tool{netns: newPodNetns(t, "stays"), capabilities: hostPortOf("8081")}, tool{netns: newPodNetns(t, "goes"), capabilities: hostPortOf("8082")}
	stays.must(t, "add")
	afterStays := h.left(t)
	goes.must(t, "add")
	attachments, err := libcni.NewCNIConfig([]string{binDir}, nil).GetCachedAttachments("")
	check(t, err)
	keep := types.GCAttachment{IfName: "eth0"}
	for _, a := range attachments {
		if a.NetNS == stays.netns {
			keep.ContainerID = a.ContainerID
		}
	}
	check(t, cni.GCNetworkList(t.Context(), list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{keep}}))
	stays.must(t, "check")
	goes.must(t, "del") // lets libcni forget it
	if diff := cmp.Diff(afterStays, h.left(t)); diff != "" {
		t.Errorf("after GC (- expected, + is):\n%s", diff)
	}
	// A host without pods: libcni's list is then null.
	check(t, cni.GCNetworkList(t.Context(), list, &libcni.GCArgs{}))
	check(t, os.RemoveAll("/var/lib/cni/results"))
	left()
}

func TestCnitoolStatusWhenFull(t *testing.T) {
	c := shipped(t).withVersion("1.1.0")
	newHost(t, shipped(t))
	c.plugin()["ipam"] = map[string]any{"ranges": []any{[]any{map[string]string{"subnet": "10.244.1.0/30"}}}}
	c.install(t)
	one, two := tool{netns: newPodNetns(t, "one")}, tool{netns: newPodNetns(t, "two")}
	one.must(t, "status")
	one.must(t, "add")
	for _, verb := range []string{"status", "add"} {
		out, err := two.try(verb)
		if err == nil || !strings.Contains(out, "10.244.1.0/30") {
			t.Errorf("cnitool %s with all addresses in use: %v: %s", verb, err, out)
		}
		t.Logf("%s", out)
	}
	one.must(t, "del")
	one.must(t, "status")
}

// TestDualStackLater: a host whose pods had one family, and get both.
func TestDualStackLater(t *testing.T) {
	newHost(t, shipped(t))
	shipped(t).dualStack().install(t)
	for _, name := range []string{"one", "two"} {
		tool{netns: newPodNetns(t, name)}.must(t, "add")
	}
	two := run(t, "sh", "-c", "ip -n two -6 -br address show eth0 scope global | awk '{print $3}'")
	address := netip.MustParsePrefix(strings.TrimSpace(two)).Addr()
	one, err := sandbox.OpenNetns("/run/netns/one")
	check(t, err)
	defer one.Close()
	if _, err := probe.Ping(t.Context(), one, address); err != nil {
		t.Error(err)
	}
}
