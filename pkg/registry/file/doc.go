// Package file is the registry that needs no server: a YAML file of nodes,
// watched while the daemon runs.
//
//	nodes:
//	- name: host-a
//	  addresses: [192.168.77.1]
//	  podSubnets: [10.244.1.0/24]
//
// Invariant: Nodes returns the content of one whole, valid file. Whatever happens
// to the file later only adds an error beside these nodes.
package file
