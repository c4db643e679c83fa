// Package cluster makes a Kubernetes of several nodes on one machine, without
// virtual machines and without a network: each node is a set of namespaces
// (network, mount, process, host name, IPC) with its own containerd, kubelet
// and kube-proxy, and its own files in the cluster's folder.
//
// Invariant: nothing is changed in the machine's own namespaces but the
// cluster's folder and its cgroups, and Down removes both. A node is a process
// namespace: when its first process is killed, the kernel ends all others, and
// with the last one go the mounts, the devices and the network namespaces of
// pods. Down kills only processes that it knows by their number and the time of
// their start.
//
// The nodes hang on a switch, which is a bridge in a network namespace of its
// own. It is everyone's default gateway, and forwards nothing: there is no
// outside. Clients of the cluster, tests too, are in that namespace.
package cluster
