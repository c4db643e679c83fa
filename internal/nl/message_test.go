package nl

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// answerOf encodes what follows the header of an NLMSG_ERROR.
func answerOf(errno unix.Errno, request []byte, attrs Attrs) []byte {
	body := native.AppendUint32(nil, uint32(-int32(errno)))
	body = append(body, request...)
	return append(body, attrs...)
}

func TestAnswers(t *testing.T) {
	const offset = 2 // NLMSGERR_ATTR_OFFS
	header := native.AppendUint32(nil, unix.NLMSG_HDRLEN+8)
	header = append(header, make([]byte, unix.NLMSG_HDRLEN-4)...)
	whole := append(append([]byte(nil), header...), make([]byte, 8)...)
	words := Attrs(nil).Uint32(offset, 20).Text(unix.NLMSGERR_ATTR_MSG, "no such device")
	tests := []struct {
		name string
		m    Message
		want string
	}{
		{"success", Message{Type: unix.NLMSG_ERROR, Body: answerOf(0, header, nil)}, ""},
		{"the end of a list", Message{Type: unix.NLMSG_DONE, Body: answerOf(0, nil, nil)}, ""},
		{"the end of a list without a status", Message{Type: unix.NLMSG_DONE}, ""},
		{"no answer", Message{Type: unix.RTM_NEWLINK, Body: answerOf(unix.EINVAL, nil, nil)}, ""},
		{"an error", Message{Type: unix.NLMSG_ERROR, Body: answerOf(unix.EEXIST, header, nil)}, "try: file exists"},
		{"with words", Message{Type: unix.NLMSG_ERROR, Flags: unix.NLM_F_CAPPED | unix.NLM_F_ACK_TLVS, Body: answerOf(unix.ENODEV, header, words)},
			"try: no such device (kernel: no such device)"},
		{"with words behind the whole request", Message{Type: unix.NLMSG_ERROR, Flags: unix.NLM_F_ACK_TLVS, Body: answerOf(unix.ENODEV, whole, words)},
			"try: no such device (kernel: no such device)"},
		{"with attributes, but no words", Message{Type: unix.NLMSG_ERROR, Flags: unix.NLM_F_CAPPED | unix.NLM_F_ACK_TLVS, Body: answerOf(unix.EINVAL, header, Attrs(nil).Uint32(offset, 20))},
			"try: invalid argument"},
		{"a list that failed", Message{Type: unix.NLMSG_DONE, Flags: unix.NLM_F_ACK_TLVS, Body: answerOf(unix.EINVAL, nil, words)},
			"try: invalid argument (kernel: no such device)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := (&Request{Op: "try"}).refusal(tt.m)
			if tt.want == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			if err == nil || err.Error() != tt.want || !errors.Is(err, tt.m.Errno()) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte{20, 0, 0, 0, unix.NLMSG_ERROR, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0xea, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		for len(in) > 0 {
			m, rest, ok := next(in)
			if !ok {
				return
			}
			if size := len(m.Body) + unix.NLMSG_HDRLEN; size+len(rest) > len(in) || len(rest) >= len(in) {
				t.Fatalf("%d bytes were read and %d are left of %d", size, len(rest), len(in))
			}
			_, _, _ = m.Errno(), m.Hint(), m.Attrs(4)
			in = rest
		}
	})
}
