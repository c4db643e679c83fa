// Package etcd is the registry for hosts without Kubernetes: every host takes
// pod subnets of its own out of networks that all of them share, and publishes
// itself. It needs the v3 API; all keys are below one prefix, /overlay-cni
// unless set otherwise:
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
// A host's keys are written in one transaction, under one lease. It compares
// that nobody has the subnets, that the host's own key and the configuration
// are what the choice was made from. The subnets of one configuration are equal
// or disjoint, so comparing single keys is enough; those of another one may
// overlap, but no transaction with an old configuration succeeds any more, and
// what was taken before is in the list that the choice is made from.
//
// A lease that is not renewed for its whole time to live ends, and all keys of
// its host go with it: the subnets are free and the other hosts remove their
// routes. While all of etcd is down no lease ends. A daemon that stops leaves
// its lease running. When it starts again it takes its keys over, or asks for
// the subnets it had if they are gone.
//
// A node key belongs to the machine that wrote it, not to the name: it holds an
// identity derived from /etc/machine-id. A second machine with the same name is
// refused until the key is gone. A machine that was renamed takes its subnets
// along: it is found by identity and address.
//
// With users and roles in etcd, a host needs a role that may read and write
// the prefix.
//
// Invariants: no two hosts hold the same or overlapping subnets at one revision
// of etcd. What Nodes returns was at one time the whole content of etcd, and
// stays what it was while etcd doesn't answer.
package etcd
