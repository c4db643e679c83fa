// Package file is the registry that needs no server: a YAML file of nodes,
// watched while the daemon runs.
//
//	nodes:
//	- name: host-a
//	  addresses: [192.168.77.1]
//	  podSubnets: [10.244.1.0/24]
//
// Invariant: what Nodes returns is one whole file that was read and valid.
// Whatever happens to the file after that only adds an error beside the set.
package file
