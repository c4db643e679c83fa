#include "go_asm.h"
#include "textflag.h"

#define SYS_exit_group 231

// func run(calls *call, n uintptr)
// The kernel leaves R12 and R13 as they are.
TEXT ·run(SB), NOSPLIT, $0-16
	MOVQ calls+0(FP), R12
	MOVQ n+8(FP), R13

next:
	MOVQ call_a(R12), DI
	MOVQ call_fd(R12), AX
	TESTQ AX, AX
	JEQ  second
	MOVQ 0(AX), DI

second:
	MOVQ call_b(R12), SI
	MOVQ call_data(R12), AX
	TESTQ AX, AX
	JEQ  ready
	MOVQ AX, SI

ready:
	MOVQ call_c(R12), DX
	MOVQ call_nr(R12), AX
	SYSCALL
	MOVQ AX, call_result(R12)
	TESTQ AX, AX
	JGE  done
	MOVQ call_onError(R12), CX
	CMPQ CX, $const_stop
	JEQ  return
	CMPQ CX, $const_exit
	JEQ  end

done:
	ADDQ $call__size, R12
	DECQ R13
	JNE  next

return:
	RET

end:
	MOVL $1, DI
	MOVL $SYS_exit_group, AX
	SYSCALL
	JMP  end
