#include "textflag.h"

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
	JMP  _rt0_amd64_linux(SB)

DATA ·setting+0(SB)/8, $"GOMAXPRO"
DATA ·setting+8(SB)/8, $"CS=1\x00\x00\x00\x00"
GLOBL ·setting(SB), RODATA|NOPTR, $16
