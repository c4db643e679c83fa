// Package ipam gives pods their addresses and remembers who has which: ranges,
// reservations and attachments, as files in the run directory.
//
//	addresses/10.244.1.5 -> ../attachments/3f2a...@eth0.json   a reservation
//	attachments/3f2a...@eth0.json                              an attachment
//	cursors/10.244.1.0-24                                      where to go on
//
// Invariants:
//
//   - An address is reserved by making one symbolic link, which the kernel does
//     completely or not at all and for one process only. No lock is needed, and
//     there is no moment at which a crash leaves half a reservation.
//   - The file of the attachment exists before its addresses are reserved and
//     goes after they were released. So a link that points nowhere is a leak,
//     and nothing else is.
//   - While an ADD or DEL works on an attachment it holds a lock (flock(2)) on
//     that file. The kernel drops the lock when the process dies, so a locked
//     file means work in progress, and never a crash.
//
// The run directory has to be on a tmpfs: a reboot empties it, together with
// the pods, and nothing in it is worth an fsync.
package ipam
