// Package etcd is the registry for hosts without Kubernetes. All hosts share one
// network of each family. Every host takes its pod subnets from these networks and
// registers itself. The package needs etcd's v3 API. All keys are below one prefix,
// by default /overlay-cni:
//
//	/overlay-cni/config                    what all hosts share: YAML, written by the operator
//	/overlay-cni/nodes/host-a              one host: JSON, written by the host
//	/overlay-cni/subnets/10.244.1.0-24     who has a subnet: JSON, written by the host
//	/overlay-cni/subnets/fd00:1:0:7::-64
//
// The configuration:
//
//	networks: [10.244.0.0/16, fd00:1::/48] # one or both families
//	subnetLengths: {ipv4: 24, ipv6: 64}    # of one host's part; these are the defaults
//	exclude: [10.244.0.0/24]               # parts that no host gets
//	settings: {vxlan: {vni: 7}}            # settings of the daemon that all hosts share
//
// One transaction writes a host's keys, under one lease. The transaction succeeds
// only if no host holds the subnets, and if the host's own key and the configuration
// have not changed since the host chose. Subnets of one configuration are equal or
// disjoint, so comparing single keys is enough. Subnets of different configurations
// may overlap. But a transaction with an old configuration fails, and a host chooses
// from a list that has the subnets taken under an older configuration.
//
// A lease ends if its host does not renew it for the whole TTL. All keys of the host
// end with the lease: its subnets are free, and the other hosts remove their routes
// to it. No lease ends while all of etcd is down. A daemon that stops leaves its
// lease running. When the daemon starts again, it takes over its keys. If they are
// gone, it asks for the same subnets.
//
// A node key belongs to the machine that wrote it, not to the name: the key holds an
// identity derived from /etc/machine-id. The registry refuses a second machine with
// the same name until the key is gone. It recognises a renamed machine by identity
// and address, and the machine keeps its subnets.
//
// If etcd has users and roles, a host needs a role that may read and write the
// prefix.
//
// Invariants: at no revision of etcd do two hosts hold overlapping subnets. Nodes
// returns the nodes as they were in etcd at one revision, and returns the same while
// etcd doesn't answer.
package etcd
