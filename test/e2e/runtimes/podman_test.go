package runtimes

import (
	"net/netip"
	"os"
	"strings"
	"testing"
)

// podmanConf selects CNI, and what works without systemd.
const podmanConf = `[network]
network_backend = "cni"
cni_plugin_dirs = ["` + binDir + `"]
network_config_dir = "` + confDir + `"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
apparmor_profile = "unconfined"
log_driver = "k8s-file"
`

// setUpPodman imports the image and forgets everything at the test's end.
func setUpPodman(t *testing.T) {
	t.Helper()
	check(t, os.MkdirAll("/etc/containers", 0o755))
	check(t, os.WriteFile("/etc/containers/containers.conf", []byte(podmanConf), 0o644))
	version(t, "podman", "--version")
	run(t, "podman", "load", "-i", saveImage(t))
	if backend := run(t, "podman", "info", "--format", "{{.Host.NetworkBackend}}"); strings.TrimSpace(backend) != "cni" {
		t.Fatalf("podman's network backend is %s", backend)
	}
	t.Cleanup(func() { run(t, "podman", "rm", "--all", "--force", "--time", "1") })
}

func podmanRun(t *testing.T, name string, args ...string) pod {
	t.Helper()
	run(t, "podman", append([]string{"run", "--detach", "--name", name, "--network", network}, append(args, image)...)...)
	return podmanPod(t, name)
}

func podmanPod(t *testing.T, name string) pod {
	t.Helper()
	return podOf(t, run(t, "podman", "inspect", "--format", "{{.State.Pid}}", name))
}

func TestPodman(t *testing.T) {
	h := newHost(t, shipped(t))
	setUpPodman(t)
	defer h.leavesNothing(t)()
	web := podmanRun(t, "web", "--publish", "8081:8080/tcp", "--publish", "8081:8080/udp")
	other := podmanRun(t, "other")
	h.mesh(t, web, other)
	h.hostPort(t, web, other)
	address := strings.TrimSpace(run(t, "podman", "inspect", "--format", "{{.NetworkSettings.Networks.overlay.IPAddress}}", "web"))
	if address != web.addr.String() {
		t.Errorf("the container's address is %s, and %s for podman", web.addr, address)
	}

	run(t, "podman", "restart", "--time", "1", "web")
	web = podmanPod(t, "web")
	h.hostPort(t, web, other)

	run(t, "podman", "network", "reload", "--all")
	web = podmanPod(t, "web")
	h.hostPort(t, web, other)

	run(t, "podman", "kill", "other")
	run(t, "podman", "rm", "--force", "--time", "1", "web", "other")
}

// TestPodmanAsksFor: an address and a MAC address of the user's choice.
func TestPodmanAsksFor(t *testing.T) {
	h := newHost(t, shipped(t))
	setUpPodman(t)
	defer h.leavesNothing(t)()
	if out, err := try(t, "podman", "run", "--detach", "--name", "fixed", "--network", network, "--ip", "10.244.1.77", image); err != nil {
		t.Errorf("--ip: %v: %s", err, out)
	} else if p := podmanPod(t, "fixed"); p.addr != netip.MustParseAddr("10.244.1.77") {
		t.Errorf("--ip 10.244.1.77 gave %s", p.addr)
	}
	if out, err := try(t, "podman", "run", "--detach", "--name", "mac", "--network", network, "--mac-address", "02:00:00:00:00:77", image); err != nil {
		t.Errorf("--mac-address: %v: %s", err, out)
	} else if out := inPodman(t, "mac", "ip", "link", "show", "eth0"); !strings.Contains(out, "02:00:00:00:00:77") {
		t.Errorf("--mac-address gave %s", out)
	}
	run(t, "podman", "rm", "--all", "--force", "--time", "1")
}

// TestPodmanPortTaken: the error of a second container with the port names the
// first one's.
func TestPodmanPortTaken(t *testing.T) {
	h := newHost(t, shipped(t))
	setUpPodman(t)
	defer h.leavesNothing(t)()
	podmanRun(t, "web", "--publish", "8081:8080")
	out, err := try(t, "podman", "run", "--detach", "--name", "rival", "--network", network, "--publish", "8081:8080", "--publish", "8081:8080/udp", image)
	if err == nil || !strings.Contains(out, "8081") || !strings.Contains(out, "web") {
		t.Errorf("a port that is taken: %v: %s", err, out)
	}
	t.Logf("a port that is taken: %s", out)
	run(t, "podman", "rm", "--all", "--force", "--time", "1")
}

// TestPodmanPod: containers that share one network.
func TestPodmanPod(t *testing.T) {
	h := newHost(t, shipped(t))
	setUpPodman(t)
	defer h.leavesNothing(t)()
	run(t, "podman", "pod", "create", "--name", "shop", "--infra-image", image, "--network", network, "--publish", "8081:8080")
	run(t, "podman", "pod", "start", "shop")
	web := podOf(t, run(t, "sh", "-c", "podman inspect --format '{{.State.Pid}}' $(podman pod inspect --format '{{.InfraContainerID}}' shop)"))
	other := podmanRun(t, "other")
	h.mesh(t, web, other)
	run(t, "podman", "pod", "rm", "--force", "--time", "1", "shop")
	run(t, "podman", "rm", "--force", "--time", "1", "other")
}

// installSecond gives the host a second network of this plugin.
func installSecond(t *testing.T) {
	t.Helper()
	second := shipped(t)
	second["name"] = "second"
	second.plugin()["bridge"] = "cni1"
	second.plugin()["ipam"] = map[string]any{"ranges": []any{[]any{map[string]string{"subnet": "10.244.2.0/24"}}}}
	second.install(t)
	t.Cleanup(func() { _, _ = try(t, "ip", "link", "del", "cni1") })
}

// TestPodmanTwoNetworks: a container with an interface in each of two, and
// one that joins and leaves the second while it runs.
func TestPodmanTwoNetworks(t *testing.T) {
	h := newHost(t, shipped(t))
	installSecond(t)
	setUpPodman(t)
	run(t, "podman", "run", "--detach", "--name", "warm-up", "--network", "second", image)
	run(t, "podman", "rm", "--force", "--time", "1", "warm-up")
	defer h.leavesNothing(t)()

	run(t, "podman", "run", "--detach", "--name", "both", "--network", network+",second", image)
	both, one := podmanPod(t, "both"), podmanRun(t, "one")
	h.mesh(t, both, one)
	run(t, "podman", "network", "connect", "second", "one")
	if out := inPodman(t, "one", "ip", "-4", "address", "show", "dev", "eth1"); !strings.Contains(out, "10.244.2.") {
		t.Errorf("the interface of the second network: %s", out)
	}
	h.mesh(t, both, one)
	run(t, "podman", "network", "disconnect", "second", "one")
	if out := inPodman(t, "one", "ip", "route"); !strings.Contains(out, "default via 10.244.1.1 dev eth0") {
		t.Errorf("the first network's default route is lost with the second network, routes left: %q", out)
	}
	h.mesh(t, both, one)
	run(t, "podman", "rm", "--all", "--force", "--time", "1")
}

// inPodman runs one of the host's programs in a container's network.
func inPodman(t *testing.T, name string, command ...string) string {
	t.Helper()
	pid := strings.TrimSpace(run(t, "podman", "inspect", "--format", "{{.State.Pid}}", name))
	return run(t, "nsenter", append([]string{"-t", pid, "-n"}, command...)...)
}

// TestPodmanTwoNetworksPort: podman asks every network of a container for its
// ports.
func TestPodmanTwoNetworksPort(t *testing.T) {
	h := newHost(t, shipped(t))
	installSecond(t)
	setUpPodman(t)
	out, err := try(t, "podman", "run", "--detach", "--name", "both", "--network", network+",second", "--publish", "8081:8080", "--publish", "8081:8080/udp", image)
	if err != nil {
		t.Fatalf("one port and two networks: %s", out)
	}
	reach(t, h.ns, netip.AddrPortFrom(localhost(), 8081))
}
