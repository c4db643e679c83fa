package registry

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

const condition = `{"status":{"conditions":[{"type":"%s","status":"%s","reason":"Test","message":"test"}]}}`

// A node that was broken into has overlayd's token. It can do no more with it than
// overlayd does: change the condition and the annotations that are ours, of its own Node.
func TestPolicyAllowsWhatOverlaydDoes(t *testing.T) {
	c := newCluster(t)
	c.createA()
	c.createB()
	r, log := c.follow()
	await(t, r, hostA+", "+hostB, "")
	for _, status := range []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionFalse} {
		report := registry.Report{}
		if status == corev1.ConditionTrue {
			report.Down = fmt.Errorf("no device")
		}
		r.ReportNetwork(report)
		c.awaitCondition(status)
	}
	if strings.Contains(log.String(), "can't set the node condition") {
		t.Errorf("a report was refused:\n%s", log)
	}
	for _, patch := range []string{
		fmt.Sprintf(condition, "NetworkUnavailable", "True"),
		`{"metadata":{"annotations":{"overlay-cni.io/x":"y"}}}`,
		`{"metadata":{"annotations":{"overlay-cni.io/x":null}}}`,
	} {
		if err := c.patchStatus("host-a", "host-a", patch); err != nil {
			t.Errorf("%s: %v", patch, err)
		}
	}
}

func TestPolicyDeniesEverythingElse(t *testing.T) {
	c := newCluster(t)
	c.createA()
	c.createB()
	// There is something to remove, too.
	_, err := c.admin.CoreV1().Nodes().Patch(t.Context(), "host-a", types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"old":"x"},"annotations":{"example.com/old":"x"},"finalizers":["example.com/x"]}}`), metav1.PatchOptions{})
	must(t, err)
	before := c.node("host-a")
	for _, tt := range []struct{ by, node, patch, why string }{
		{"host-a", "host-b", `{"metadata":{"annotations":{"overlay-cni.io/address":"192.0.2.1"}}}`, `overlayd of node "host-a" may not change node "host-b"`},
		{"host-a", "host-b", fmt.Sprintf(condition, "NetworkUnavailable", "True"), `may not change node "host-b"`},
		{"", "host-a", fmt.Sprintf(condition, "NetworkUnavailable", "True"), `overlayd of node "" may not change node "host-a"`},
		{"host-a", "host-a", `{"metadata":{"labels":{"x":"y"}}}`, "labels"},
		{"host-a", "host-a", `{"metadata":{"labels":{"old":null}}}`, "labels"},
		{"host-a", "host-a", `{"metadata":{"labels":null}}`, "labels"},
		{"host-a", "host-a", `{"metadata":{"finalizers":null}}`, "labels"},
		{"host-a", "host-a", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"x","uid":"x"}]}}`, "labels"},
		{"host-a", "host-a", `{"metadata":{"annotations":{"example.com/x":"y"}}}`, "annotations"},
		{"host-a", "host-a", `{"metadata":{"annotations":{"example.com/old":"y"}}}`, "annotations"},
		{"host-a", "host-a", `{"metadata":{"annotations":{"example.com/old":null}}}`, "annotations"},
		{"host-a", "host-a", `{"metadata":{"annotations":{"overlay-cni.io.example.com/x":"y"}}}`, "annotations"},
		{"host-a", "host-a", `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.9"}]}}`, "no status"},
		{"host-a", "host-a", `{"status":{"addresses":null}}`, "no status"},
		{"host-a", "host-a", `{"status":{"capacity":{"example.com/gpu":"8"}}}`, "no status"},
		{"host-a", "host-a", `{"status":{"nodeInfo":{"kubeletVersion":"v0"}}}`, "no status"},
		{"host-a", "host-a", fmt.Sprintf(condition, "Ready", "False"), "no condition"},
		{"host-a", "host-a", fmt.Sprintf(condition, "MemoryPressure", "True"), "no condition"},
		{"host-a", "host-a", `{"status":{"conditions":[{"type":"Ready","$patch":"delete"}]}}`, "no condition"},
	} {
		err := c.patchStatus(tt.by, tt.node, tt.patch)
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%q patches %s with %s: %v", tt.by, tt.node, tt.patch, err)
		}
	}
	if after := c.node("host-a"); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("something changed: before %+v\nafter %+v", before, after)
	}
	// Nobody else is concerned.
	_, err = c.admin.CoreV1().Nodes().Patch(t.Context(), "host-a", types.StrategicMergePatchType,
		[]byte(`{"metadata":{"labels":{"x":"y"}},"status":{"addresses":null}}`), metav1.PatchOptions{}, "status")
	must(t, err)
}

func (c *cluster) node(name string) *corev1.Node {
	c.t.Helper()
	n, err := c.admin.CoreV1().Nodes().Get(c.t.Context(), name, metav1.GetOptions{})
	must(c.t, err)
	return n
}
