package runtimes

import (
	"testing"

	gocni "github.com/containerd/go-cni"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// TestGoCNI is containerd's own library in its newest version, as containerd 2
// uses it: it asks for STATUS, and speaks version 1.1.0.
func TestGoCNI(t *testing.T) {
	h := newHost(t, shipped(t).offering("1.0.0", "1.1.0"))
	defer h.leavesNothing(t)()
	cni, err := gocni.New(gocni.WithPluginDir([]string{binDir}), gocni.WithPluginConfDir(confDir), gocni.WithDefaultConf)
	check(t, err)
	check(t, cni.Status())
	if v := cni.GetConfig().Networks[0].Config.CNIVersion; v != "1.1.0" {
		t.Errorf("libcni chose version %s of those that the configuration has, expected 1.1.0", v)
	}
	options := []gocni.NamespaceOpts{
		gocni.WithLabels(map[string]string{"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web", "K8S_POD_INFRA_CONTAINER_ID": "web", "K8S_POD_UID": "1", "IgnoreUnknown": "1"}),
		gocni.WithCapabilityPortMap([]gocni.PortMapping{{HostPort: 8081, ContainerPort: podPort, Protocol: "tcp"}}),
		gocni.WithCapabilityBandWidth(gocni.BandWidth{IngressRate: 8 << 20, IngressBurst: 8 << 20, EgressRate: 8 << 20, EgressBurst: 8 << 20}),
	}
	path := newPodNetns(t, "web")
	result, err := cni.Setup(t.Context(), "web", path, options...)
	check(t, err)
	eth0 := result.Interfaces["eth0"]
	if eth0 == nil || len(eth0.IPConfigs) != 1 || eth0.Sandbox != path || eth0.Mac == "" {
		t.Errorf("eth0 is %+v", eth0)
	}
	check(t, cni.Check(t.Context(), "web", path, options...))
	ns, err := sandbox.OpenNetns(path)
	check(t, err)
	check(t, ns.Delete())
	// The runtime may stop a pod whose namespace is gone.
	check(t, cni.Remove(t.Context(), "web", "", options...))
	check(t, cni.Remove(t.Context(), "web", path, options...))
}
