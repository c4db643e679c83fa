package hosts

import "golang.org/x/sys/unix"

// number is that of the system call a thread is in.
func number(regs *unix.PtraceRegs) uint64 { return regs.Orig_rax }
