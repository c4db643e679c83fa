// Package ipam gives addresses to owners. It knows the ranges of addresses of a
// network, and which addresses are reserved. Reservations are files in the
// network's state directory:
//
//	addresses/10.244.1.5 -> ../attachments/3f2a...@eth0.json   a reservation
//	cursors/10.244.1.0-24                                      the address given last
//
// Invariants:
//
//   - A reservation is one symbolic link. The kernel makes a link completely or
//     not at all, and for one process only. So no lock is needed, and a crash
//     never leaves half a reservation.
//   - The link points to a file of its owner (package attachment). An owner makes
//     the file before it reserves and removes the file after it released. So a
//     link that points nowhere is a leak, and nothing else is.
//
// The state directory has to be on a tmpfs: a reboot empties it, together with
// the pods, and nothing in it is worth an fsync.
package ipam
