package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/apiserver"
)

// kubeSource is Node objects in a real apiserver.
type kubeSource struct {
	client     *kubernetes.Clientset
	kubeconfig string
}

func newKubeSource(s *apiserver.Server) (*kubeSource, error) {
	config, err := s.Config(apiserver.Admin)
	if err != nil {
		return nil, err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of kube-apiserver: %w", err)
	}
	kubeconfig, err := s.Kubeconfig(apiserver.Admin)
	return &kubeSource{client, kubeconfig}, err
}

func (k *kubeSource) flags() []string {
	return []string{"--registry-type", kubeRegistry, "--registry-kubeconfig", k.kubeconfig}
}

func (k *kubeSource) add(ctx context.Context, nodes []node) error {
	return each(nodes, func(n node) error {
		_, err := k.client.CoreV1().Nodes().Create(ctx, object(n), metav1.CreateOptions{FieldManager: "kubelet"})
		return err
	})
}

func (k *kubeSource) remove(ctx context.Context, nodes []node) error {
	return each(nodes, func(n node) error {
		return k.client.CoreV1().Nodes().Delete(ctx, n.name, metav1.DeleteOptions{})
	})
}

func (k *kubeSource) move(ctx context.Context, n node) (time.Time, error) {
	return k.patch(ctx, n.name, map[string]any{
		"metadata": map[string]any{"annotations": annotations(n)},
		"status":   map[string]any{"addresses": append([]any{map[string]any{"$patch": "replace"}}, asAny(addresses(n))...)},
	})
}

// beat is what every kubelet does every five minutes: it says that all is as
// it was.
func (k *kubeSource) beat(ctx context.Context, n node) error {
	_, err := k.patch(ctx, n.name, map[string]any{"status": map[string]any{"conditions": conditions(time.Now())}})
	return err
}

func (k *kubeSource) patch(ctx context.Context, name string, patch map[string]any) (time.Time, error) {
	text, err := json.Marshal(patch)
	if err != nil {
		return time.Time{}, err
	}
	began := time.Now()
	_, err = k.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, text, metav1.PatchOptions{FieldManager: "kubelet"}, "status")
	return began, err
}

func asAny[T any](values []T) []any {
	var all []any
	for _, v := range values {
		all = append(all, v)
	}
	return all
}

// each calls do for all nodes, some at a time: an apiserver writes as fast with
// eight clients as with more.
func each(nodes []node, do func(node) error) error {
	const workers = 8
	work, failed := make(chan node), make([]error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for n := range work {
				failed[i] = errors.Join(failed[i], do(n))
			}
		})
	}
	for _, n := range nodes {
		work <- n
	}
	close(work)
	wg.Wait()
	return errors.Join(failed...)
}

// object is a node as a cloud's cluster has it: about 12 kB, most of it names
// of images and what the apiserver itself writes about the fields' managers.
func object(n node) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: labels(n), Annotations: annotations(n)},
		Spec:       corev1.NodeSpec{PodCIDR: n.subnet.String(), PodCIDRs: []string{n.subnet.String()}, ProviderID: "cloud://zone-a/" + n.name},
		Status: corev1.NodeStatus{
			Addresses: addresses(n), Conditions: conditions(time.Now()), Images: images(),
			Capacity: resources(), Allocatable: resources(),
			NodeInfo: corev1.NodeSystemInfo{
				MachineID: "ec2c3a0b8d6f4b0f9a1e0f5d6c7b8a90", SystemUUID: "ec2c3a0b-8d6f-4b0f-9a1e-0f5d6c7b8a90", BootID: "1c6a4f3e-9d0b-4f0a-8f1e-2b3c4d5e6f70",
				KernelVersion: "6.1.0-40-amd64", OSImage: "Debian GNU/Linux 12 (bookworm)", ContainerRuntimeVersion: "containerd://1.7.27",
				KubeletVersion: "v1.37.2", OperatingSystem: "linux", Architecture: "amd64",
			},
		},
	}
}

func labels(n node) map[string]string {
	return map[string]string{
		"beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
		"kubernetes.io/os": "linux", "kubernetes.io/hostname": n.name, "node.kubernetes.io/instance-type": "m7.2xlarge",
		"topology.kubernetes.io/region": "region-1", "topology.kubernetes.io/zone": "region-1a", "example.com/pool": "workers",
	}
}

// annotations hold what flannel's daemons tell each other, for a comparison
// with it: each node says itself which VTEP it has.
func annotations(n node) map[string]string {
	a := n.address.As4()
	return map[string]string{
		"node.alpha.kubernetes.io/ttl":                           "15",
		"volumes.kubernetes.io/controller-managed-attach-detach": "true",
		"flannel.alpha.coreos.com/backend-type":                  "vxlan",
		"flannel.alpha.coreos.com/backend-data":                  fmt.Sprintf(`{"VNI":1,"VtepMAC":"0a:58:%02x:%02x:%02x:%02x"}`, a[0], a[1], a[2], a[3]),
		"flannel.alpha.coreos.com/kube-subnet-manager":           "true",
		"flannel.alpha.coreos.com/public-ip":                     n.address.String(),
	}
}

func addresses(n node) []corev1.NodeAddress {
	return []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: n.address.String()},
		{Type: corev1.NodeHostName, Address: n.name},
		{Type: corev1.NodeInternalDNS, Address: n.name + ".region-1.internal"},
	}
}

func conditions(now time.Time) []corev1.NodeCondition {
	condition := func(t corev1.NodeConditionType, status corev1.ConditionStatus, reason, message string) corev1.NodeCondition {
		return corev1.NodeCondition{
			Type: t, Status: status, Reason: reason, Message: message,
			LastHeartbeatTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now.Add(-24 * time.Hour).Truncate(24 * time.Hour)),
		}
	}
	return []corev1.NodeCondition{
		condition(corev1.NodeNetworkUnavailable, corev1.ConditionFalse, "RouteCreated", "the network of this node is ready"),
		condition(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		condition(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		condition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
		condition(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status"),
	}
}

// images: a kubelet reports the 50 largest.
func images() []corev1.ContainerImage {
	var all []corev1.ContainerImage
	for i := range 50 {
		name := fmt.Sprintf("registry.example.com/team-%d/service-%02d", i%7, i)
		all = append(all, corev1.ContainerImage{
			Names:     []string{fmt.Sprintf("%s@sha256:%064x", name, i+1), fmt.Sprintf("%s:v1.%d.0", name, i)},
			SizeBytes: int64(500-i) << 20,
		})
	}
	return all
}

func resources() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("32Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
}
