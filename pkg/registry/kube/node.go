package kube

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// AddressAnnotation is where an operator says by which addresses the other
// hosts reach a node: one, or two with a comma, one a family. It overrides
// status.addresses, at once.
const AddressAnnotation = "overlay-cni.io/address"

// node is the part of a Node object that this package uses: some hundred bytes
// of 10 to 40 kB. Of the metadata it has what the reflector needs: name, resource
// version, and the annotations of a bookmark.
type node struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	override  string // value of AddressAnnotation
	podCIDRs  []string
	addresses []corev1.NodeAddress
	// network is the condition NetworkUnavailable; zero where there is none.
	network condition
}

// condition is the part of a node condition that this package compares.
type condition struct{ status, reason, message string }

func nodeOf(full *corev1.Node) *node {
	n := &node{
		ObjectMeta: metav1.ObjectMeta{Name: full.Name, ResourceVersion: full.ResourceVersion},
		override:   full.Annotations[AddressAnnotation],
		podCIDRs:   full.Spec.PodCIDRs,
		addresses:  full.Status.Addresses,
	}
	for _, c := range full.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			n.network = condition{string(c.Status), c.Reason, c.Message}
		}
	}
	return n
}

// DeepCopyObject makes a node a runtime.Object. Nodes are not changed after
// they were decoded, so that a copy may share what they point to.
func (n *node) DeepCopyObject() runtime.Object {
	c := *n
	return &c
}

// nodeList is the answer to a list request. Items is exported for apimachinery,
// which finds it by reflection.
type nodeList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []*node
}

// DeepCopyObject makes a nodeList a runtime.Object.
func (l *nodeList) DeepCopyObject() runtime.Object {
	c := *l
	return &c
}
