package cluster

import (
	"fmt"
	"net/netip"
)

// The cluster's networks. They are in namespaces of their own, so they clash
// with nothing; and the same in every cluster, so logs read alike.
const (
	// underlayMTU is Ethernet's.
	underlayMTU = 1500
	serviceCIDR = "10.96.0.0/16"
	// podCIDR is cut into a /24 for each node by kube-controller-manager.
	podCIDR = "10.244.0.0/16"
	// apiPort is kube-apiserver's usual one.
	apiPort = 6443
)

// Well-known addresses.
var (
	underlay       = netip.MustParsePrefix("192.168.88.0/24")
	switchAddress  = netip.MustParseAddr("192.168.88.254")
	firstNode      = netip.MustParseAddr("192.168.88.10")
	serviceAddress = netip.MustParseAddr("10.96.0.1") // the API server's
	dnsAddress     = netip.MustParseAddr("10.96.0.10")
)

// Node is a machine of the cluster.
type Node struct {
	Name    string
	Address netip.Addr
}

// Control is the node with the control plane. Only pods that tolerate it run there.
const Control = "control"

// nodes are the control plane's and n workers.
func nodes(workers int) []Node {
	all := []Node{{Name: Control, Address: firstNode}}
	address := firstNode
	for i := range workers {
		address = address.Next()
		all = append(all, Node{Name: fmt.Sprintf("worker%d", i+1), Address: address})
	}
	return all
}

func apiURL() string { return "https://" + netip.AddrPortFrom(firstNode, apiPort).String() }
