package image

import (
	"encoding/binary"
	"errors"
	"testing"
)

// kernelFile is a file as a kernel's build makes it, around a payload.
func kernelFile(payload string) []byte {
	const setupSectors, offset = 3, 100
	file := make([]byte, (setupSectors+1)*sector+offset)
	file[setupSectorsAt] = setupSectors
	copy(file[magicAt:], "HdrS")
	binary.LittleEndian.PutUint32(file[payloadOffsetAt:], offset)
	binary.LittleEndian.PutUint32(file[payloadLengthAt:], uint32(len(payload)+trailer))
	return append(append(file, payload...), "sizeand the rest of it"...)
}

const xz = "\xfd7zXZ\x00"

func TestPayload(t *testing.T) {
	damaged := kernelFile(xz)
	damaged[magicAt] = 'X'
	for _, tt := range []struct {
		name string
		file []byte
		want string
		err  error
	}{
		{"kernel", kernelFile(xz + "kernel"), xz + "kernel", nil},
		{"empty", nil, "", errNoKernel},
		{"no kernel", damaged, "", errNoKernel},
		{"cut off", kernelFile(xz + "kernel")[:4*sector+104], "", errNoKernel},
		{"another compression", kernelFile("\x28\xb5\x2f\xfdkernel"), "", errNotXZ},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := payload(tt.file)
			if string(got) != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzPayload(f *testing.F) {
	f.Add(kernelFile(xz))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, file []byte) {
		if got, err := payload(file); err == nil && len(got) > len(file) {
			t.Errorf("%d bytes of %d", len(got), len(file))
		}
	})
}
