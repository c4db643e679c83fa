// Package attachment keeps and removes what a host has of its pods: the ports
// on the bridge, the ports of the host, and the files in the run directory.
//
// Invariant: an attachment is removed in one order, by one function, whoever
// asks: host ports, devices, addresses, file. So an address is free only after
// nothing has it any more.
package pods
