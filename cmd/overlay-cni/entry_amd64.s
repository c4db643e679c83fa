//go:build faststart

#include "textflag.h"

#define SYS_prctl 157
#define SYS_prlimit64 302

#define PR_SET_TIMERSLACK 29
#define RLIMIT_NOFILE 7

// See entry.go. The kernel enters with the stack as the System V ABI for AMD64
// has it (3.4.1): argc, pointers to arguments, nil, pointers to variables, nil,
// the auxiliary vector. All up to the first nil moves down by two words.
TEXT ·entry(SB), NOSPLIT|NOFRAME, $0
	MOVQ 0(SP), CX
	ADDQ $2, CX
	MOVQ SP, SI
	SUBQ $16, SP
	MOVQ SP, DI
	CLD
	REP; MOVSQ
	LEAQ ·setting(SB), AX
	MOVQ AX, 0(DI)
	MOVQ AX, 8(DI)

	// Change the soft limit only: read both limits with prlimit(0, RLIMIT_NOFILE,
	// nil, SP), change the soft one, which comes first, and write both back.
	SUBQ $16, SP
	MOVL $SYS_prlimit64, AX
	XORL DI, DI
	MOVL $RLIMIT_NOFILE, SI
	XORL DX, DX
	MOVQ SP, R10
	SYSCALL
	TESTQ AX, AX
	JNE  limited
	MOVQ $3, 0(SP)
	MOVL $SYS_prlimit64, AX
	XORL DI, DI
	MOVL $RLIMIT_NOFILE, SI
	MOVQ SP, DX
	XORL R10, R10
	SYSCALL

limited:
	ADDQ $16, SP

	MOVL $SYS_prctl, AX
	MOVL $PR_SET_TIMERSLACK, DI
	MOVL $10000000, SI // nanoseconds
	SYSCALL

	MOVQ ·memProfileRate(SB), AX
	MOVQ $0, 0(AX)
	JMP  _rt0_amd64_linux(SB)

DATA ·setting+0(SB)/8, $"GOMAXPRO"
DATA ·setting+8(SB)/8, $"CS=1\x00\x00\x00\x00"
GLOBL ·setting(SB), RODATA|NOPTR, $16
