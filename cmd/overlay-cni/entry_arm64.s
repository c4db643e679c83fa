//go:build faststart

#include "textflag.h"

#define SYS_prctl 167
#define SYS_prlimit64 261

#define PR_SET_TIMERSLACK 29
#define RLIMIT_NOFILE 7

// See entry.go. The kernel enters with the stack as on AMD64, see there. The
// stack pointer has to stay a multiple of 16, because the CPU faults on any
// other.
TEXT ·entry(SB), NOSPLIT|NOFRAME, $0
	MOVD 0(RSP), R0
	ADD  $2, R0
	MOVD RSP, R1
	SUB  $16, RSP
	MOVD RSP, R2

move:
	MOVD.P 8(R1), R3
	MOVD.P R3, 8(R2)
	SUBS   $1, R0
	BNE    move
	MOVD   $·setting(SB), R3
	MOVD   R3, 0(R2)
	MOVD   R3, 8(R2)

	// See entry_amd64.s.
	SUB  $16, RSP
	MOVD $SYS_prlimit64, R8
	MOVD $0, R0
	MOVD $RLIMIT_NOFILE, R1
	MOVD $0, R2
	MOVD RSP, R3
	SVC
	CBNZ R0, limited
	MOVD $3, R4
	MOVD R4, 0(RSP)
	MOVD $SYS_prlimit64, R8
	MOVD $0, R0
	MOVD $RLIMIT_NOFILE, R1
	MOVD RSP, R2
	MOVD $0, R3
	SVC

limited:
	ADD  $16, RSP

	MOVD $SYS_prctl, R8
	MOVD $PR_SET_TIMERSLACK, R0
	MOVD $10000000, R1 // nanoseconds
	SVC

	MOVD ·memProfileRate(SB), R3
	MOVD ZR, 0(R3)
	B    _rt0_arm64_linux(SB)

DATA ·setting+0(SB)/8, $"GOMAXPRO"
DATA ·setting+8(SB)/8, $"CS=1\x00\x00\x00\x00"
GLOBL ·setting(SB), RODATA|NOPTR, $16
