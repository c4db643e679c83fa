#include "go_asm.h"
#include "textflag.h"

#define SYS_exit_group 94

// func run(calls *call, n uintptr)
// The kernel leaves all registers but R0 as they are.
TEXT ·run(SB), NOSPLIT, $0-16
	MOVD calls+0(FP), R10
	MOVD n+8(FP), R11

next:
	MOVD call_a(R10), R0
	MOVD call_fd(R10), R3
	CBZ  R3, second
	MOVD 0(R3), R0

second:
	MOVD call_b(R10), R1
	MOVD call_data(R10), R3
	CBZ  R3, ready
	MOVD R3, R1

ready:
	MOVD call_c(R10), R2
	MOVD call_nr(R10), R8
	SVC
	MOVD R0, call_result(R10)
	TBZ  $63, R0, done
	MOVD call_onError(R10), R3
	CMP  $const_stop, R3
	BEQ  return
	CMP  $const_exit, R3
	BEQ  end

done:
	ADD  $call__size, R10
	SUBS $1, R11
	BNE  next

return:
	RET

end:
	MOVD $1, R0
	MOVD $SYS_exit_group, R8
	SVC
	B    end
