// Package apiserver runs a real etcd and kube-apiserver, for what has to be
// seen with the real ones: watches, patches, permissions, and what happens to
// clients when a server is stopped, killed, frozen or without its etcd.
//
// Invariant: nothing outlives the program, however it ends: the kernel kills
// both processes then, and all of their files are in one folder. The servers
// are in the network namespace of the caller of Start, which has to be root, or
// in a sandbox. One port is taken there, the apiserver's; etcd has sockets.
//
// It is for nodes and other objects of clients. There is no controller manager,
// so nobody makes service accounts' tokens, hands out pod subnets, or marks
// nodes unreachable.
package apiserver
