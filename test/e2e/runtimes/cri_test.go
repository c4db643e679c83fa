package runtimes

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// kubelet does with containerd what a kubelet does.
type kubelet struct {
	cri.RuntimeServiceClient
}

func newKubelet(t *testing.T) kubelet {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+containerdSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	k := kubelet{cri.NewRuntimeServiceClient(conn)}
	v, err := k.Version(t.Context(), &cri.VersionRequest{})
	check(t, err)
	t.Logf("version: CRI %s of %s %s", v.GetRuntimeApiVersion(), v.GetRuntimeName(), v.GetRuntimeVersion())
	return k
}

// podConfig is what a kubelet makes of a Pod.
func podConfig(name string, ports ...*cri.PortMapping) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "shop", Uid: "uid-" + name},
		PortMappings: ports,
		LogDirectory: "/run/log/" + name,
		Linux:        &cri.LinuxPodSandboxConfig{CgroupParent: "/pods"},
	}
}

// both are TCP and UDP of one port.
func both(hostPort int32) []*cri.PortMapping {
	return []*cri.PortMapping{
		{Protocol: cri.Protocol_TCP, HostPort: hostPort, ContainerPort: podPort},
		{Protocol: cri.Protocol_UDP, HostPort: hostPort, ContainerPort: podPort},
	}
}

// run starts a pod: a sandbox, whose own container is the pods' server.
func (k kubelet) run(t *testing.T, config *cri.PodSandboxConfig) (string, pod) {
	t.Helper()
	made, err := k.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config})
	check(t, err)
	status, pid := k.status(t, made.GetPodSandboxId())
	p := podOf(t, strconv.Itoa(pid))
	if status.GetNetwork().GetIp() != p.addr.String() {
		t.Errorf("the pod's address is %s, and %s for containerd", p.addr, status.GetNetwork().GetIp())
	}
	return made.GetPodSandboxId(), p
}

func (k kubelet) status(t *testing.T, id string) (*cri.PodSandboxStatus, int) {
	t.Helper()
	answer, err := k.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	check(t, err)
	var info struct {
		PID int `json:"pid"`
	}
	check(t, json.Unmarshal([]byte(answer.GetInfo()["info"]), &info))
	return answer.GetStatus(), info.PID
}

func (k kubelet) stop(t *testing.T, id string) {
	t.Helper()
	_, err := k.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: id})
	check(t, err)
}

func (k kubelet) remove(t *testing.T, id string) {
	t.Helper()
	_, err := k.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: id})
	check(t, err)
}

// ready checks what a kubelet waits for before a node is Ready.
func (k kubelet) ready(t *testing.T) {
	t.Helper()
	answer, err := k.Status(t.Context(), &cri.StatusRequest{})
	check(t, err)
	for _, c := range answer.GetStatus().GetConditions() {
		if c.GetType() == cri.NetworkReady && !c.GetStatus() {
			t.Errorf("the network is not ready: %s", c.GetMessage())
		}
	}
}

// aliases are those of the host's interfaces, which tell whose they are.
func aliases(t *testing.T) string {
	t.Helper()
	return run(t, "sh", "-c", "cat /sys/class/net/*/ifalias")
}

func TestCRI(t *testing.T) {
	h := newHost(t, shipped(t))
	startContainerd(t)
	k := newKubelet(t)
	k.ready(t)
	defer h.leavesNothing(t)()
	webID, web := k.run(t, podConfig("web", both(8081)...))
	otherID, other := k.run(t, podConfig("other"))
	if !strings.Contains(aliases(t), "shop/web") {
		t.Errorf("no interface has the alias shop/web: %q", aliases(t))
	}
	h.mesh(t, web, other)
	h.hostPort(t, web, other)

	_, err := k.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: podConfig("rival", both(8081)...)})
	if err == nil || !strings.Contains(err.Error(), "8081") || !strings.Contains(err.Error(), "shop/web") {
		t.Errorf("a port that is taken: %v", err)
	}
	t.Logf("a port that is taken: %v", err)
	h.hostPort(t, web, other)

	for _, id := range []string{webID, otherID} {
		k.stop(t, id)
		k.stop(t, id)
		k.remove(t, id)
	}
}

func TestCRIDualStack(t *testing.T) {
	h := newHost(t, shipped(t).dualStack())
	startContainerd(t)
	k := newKubelet(t)
	defer h.leavesNothing(t)()
	id, one := k.run(t, podConfig("one", both(8081)...))
	otherID, other := k.run(t, podConfig("other"))
	status, _ := k.status(t, id)
	if len(status.GetNetwork().GetAdditionalIps()) != 1 {
		t.Fatalf("one more address was expected: %v", status.GetNetwork())
	}
	second := netip.MustParseAddr(status.GetNetwork().GetAdditionalIps()[0].GetIp())
	reach(t, other.ns, netip.AddrPortFrom(second, podPort))
	reach(t, h.ns, netip.AddrPortFrom(second, podPort))
	h.mesh(t, one, other)
	h.hostPort(t, one, other)
	for _, id := range []string{id, otherID} {
		k.stop(t, id)
		k.remove(t, id)
	}
}

// TestCRIBandwidth: the limits of a Pod's annotations are on its interfaces.
func TestCRIBandwidth(t *testing.T) {
	h := newHost(t, shipped(t))
	startContainerd(t)
	k := newKubelet(t)
	defer h.leavesNothing(t)()
	config := podConfig("slow")
	config.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "16M"}
	id, _ := k.run(t, config)
	shapers := run(t, "tc", "qdisc", "show")
	for _, rate := range []string{"rate 8Mbit", "rate 16Mbit"} {
		if !strings.Contains(shapers, rate) {
			t.Errorf("no %s in\n%s", rate, shapers)
		}
	}
	k.stop(t, id)
	k.remove(t, id)
}

// TestCRILosesNamespace: a pod whose namespace is gone, as somebody removed
// its file, is stopped like any other.
func TestCRILosesNamespace(t *testing.T) {
	h := newHost(t, shipped(t))
	startContainerd(t)
	k := newKubelet(t)
	defer h.leavesNothing(t)()
	id, _ := k.run(t, podConfig("lost", both(8081)...))
	_, pid := k.status(t, id)
	check(t, unix.Kill(pid, unix.SIGKILL))
	for _, ns := range files(t, "/run/netns") {
		path := strings.TrimPrefix(ns, "file ")
		if strings.HasPrefix(path, "/run/netns/cni-") {
			check(t, unix.Unmount(path, unix.MNT_DETACH))
			check(t, os.Remove(path))
		}
	}
	k.stop(t, id)
	k.remove(t, id)
}

// TestCRIRestart: pods outlive a containerd that is killed, and can be stopped
// by the next.
func TestCRIRestart(t *testing.T) {
	h := newHost(t, shipped(t))
	d := startContainerd(t)
	k := newKubelet(t)
	defer h.leavesNothing(t)()
	id, web := k.run(t, podConfig("web", both(8081)...))
	d.end(t, syscall.SIGKILL)
	reach(t, h.client, netip.AddrPortFrom(hostAddr(), 8081))
	d.start(t)
	k = newKubelet(t)
	otherID, other := k.run(t, podConfig("other"))
	h.mesh(t, web, other)
	for _, id := range []string{id, otherID} {
		k.stop(t, id)
		k.remove(t, id)
	}
}

// TestCRIMany: pods that come and go at once.
func TestCRIMany(t *testing.T) {
	const pods = 16
	h := newHost(t, shipped(t))
	startContainerd(t)
	k := newKubelet(t)
	defer h.leavesNothing(t)()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	errs := make(chan error, pods)
	for i := range pods {
		go func() { errs <- k.comeAndGo(ctx, h.ns, fmt.Sprintf("pod-%d", i), 9000+int32(i)) }()
	}
	for range pods {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func (k kubelet) comeAndGo(ctx context.Context, host *sandbox.Netns, name string, port int32) error {
	made, err := k.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: podConfig(name, both(port)...)})
	if err != nil {
		return err
	}
	// The pod's process may not listen yet.
	err = probe.Eventually(ctx, func(ctx context.Context) error {
		_, err := probe.TCP(ctx, host, netip.AddrPortFrom(localhost(), uint16(port)))
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := k.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: made.GetPodSandboxId()}); err != nil {
		return err
	}
	_, err = k.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: made.GetPodSandboxId()})
	return err
}
