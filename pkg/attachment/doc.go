// Package attachment remembers the attachments of a host: which container's
// interface has which addresses and devices. An attachment is one file in the
// network's state directory:
//
//	attachments/3f2a...@eth0.json
//
// Invariants:
//
//   - The file exists before the attachment's addresses are reserved (package
//     ipam), and goes after they were released.
//   - While an ADD or DEL works on an attachment, the process holds a lock
//     (flock(2)) on the file. The kernel drops the lock when the process dies, so
//     a locked file means work in progress, and never a crash.
//   - The file's name and the names of the attachment's devices follow from the
//     container and the interface. So DEL finds everything without a record.
package attachment
