package kube

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// AddressAnnotation names the annotation with which an operator overrides
// status.addresses: the address by which other hosts reach the node, or one
// address of each family, separated by a comma. Hosts follow a change at once.
const AddressAnnotation = "overlay-cni.io/address"

// NATAnnotation names the annotation that says, with the value "true", that the network
// translates these addresses to those that the host has itself.
const NATAnnotation = "overlay-cni.io/nat"

// node is the part of a Node object that this package uses: some hundred bytes
// of 10 to 40 kB. Its metadata hold only what the reflector needs: the name, the
// resource version, and the annotations of a bookmark.
type node struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	override  string // value of AddressAnnotation
	nat       bool   // whether NATAnnotation is "true"
	podCIDRs  []string
	addresses []corev1.NodeAddress
	// network is the condition NetworkUnavailable. It is zero if the Node has none.
	network condition
}

// condition is the part of a node condition that this package compares.
type condition struct{ status, reason, message string }

func nodeOf(full *corev1.Node) *node {
	n := &node{
		ObjectMeta: metav1.ObjectMeta{Name: full.Name, ResourceVersion: full.ResourceVersion},
		override:   full.Annotations[AddressAnnotation],
		nat:        full.Annotations[NATAnnotation] == "true",
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

// DeepCopyObject makes a node a runtime.Object. Nobody changes a node after it was
// decoded, so a copy may share its slices.
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
