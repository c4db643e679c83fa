#include "textflag.h"

// See entry.go. The kernel enters with the stack as on AMD64, see there. The
// stack pointer stays a multiple of 16, without which the CPU refuses it.
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
	B      _rt0_arm64_linux(SB)

DATA ·setting+0(SB)/8, $"GOMAXPRO"
DATA ·setting+8(SB)/8, $"CS=1\x00\x00\x00\x00"
GLOBL ·setting(SB), RODATA|NOPTR, $16
