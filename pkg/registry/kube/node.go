package kube

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// AddressAnnotation is where an operator says by which addresses the other
// hosts reach a node: one, or two with a comma, one a family. It overrides
// status.addresses, at once.
const AddressAnnotation = "overlay-cni.io/address"

// node is the part of a Node object that this package uses. Of the metadata
// only name and resource version are filled in, which the reflector needs.
type node struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	override  string // the value of AddressAnnotation
	podCIDRs  []string
	addresses []address
	// network is the condition NetworkUnavailable; zero where there is none.
	network condition
}

// address is one of status.addresses.
type address struct{ kind, text string }

// condition is what is compared of a node condition.
type condition struct{ status, reason, message string }

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
