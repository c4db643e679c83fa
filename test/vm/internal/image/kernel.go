package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/overlay-cni/overlay-cni/test/vm/internal/debian"
)

// extractKernel takes the kernel out of its compressed form: to unpack itself
// costs an emulated machine three seconds at each boot. QEMU starts an ELF
// kernel by the PVH protocol.
func extractKernel(ctx context.Context, t *debian.Tree, release string) error {
	if _, err := os.Stat(t.Path(vmlinux)); err == nil {
		return nil
	}
	file, err := os.ReadFile(t.Path("boot/vmlinuz-" + release))
	if err != nil {
		return err
	}
	compressed, err := payload(file)
	if err != nil {
		return fmt.Errorf("kernel %s: %w", release, err)
	}
	kernel, err := os.Create(t.Path(vmlinux + ".new"))
	if err != nil {
		return err
	}
	defer kernel.Close()
	unpack := t.Command(ctx, "xz", "--decompress", "--stdout")
	unpack.Stdin = bytes.NewReader(compressed)
	if err := output(unpack, kernel); err != nil {
		return err
	}
	return os.Rename(kernel.Name(), t.Path(vmlinux))
}

// Where numbers stand in the header of a kernel for x86, in bytes
// (https://docs.kernel.org/arch/x86/boot.html).
const (
	setupSectorsAt  = 0x1f1
	magicAt         = 0x202
	payloadOffsetAt = 0x248
	payloadLengthAt = 0x24c
	headerEnd       = 0x250
	sector          = 512
	// trailer is the size of the unpacked kernel, which stands behind what the
	// compressing program wrote and belongs to the payload.
	trailer = 4
)

var (
	errNoKernel = errors.New("this is no kernel for x86")
	errNotXZ    = errors.New("it is not compressed by xz")
)

// payload finds the compressed kernel in the file: so many bytes behind the
// sectors for the start, of which the first is not counted.
func payload(file []byte) ([]byte, error) {
	if len(file) < headerEnd || !bytes.HasPrefix(file[magicAt:], []byte("HdrS")) {
		return nil, errNoKernel
	}
	number := func(at int) int { return int(binary.LittleEndian.Uint32(file[at:])) }
	start := (int(file[setupSectorsAt])+1)*sector + number(payloadOffsetAt)
	length := number(payloadLengthAt) - trailer
	if length < 0 || start+length > len(file) {
		return nil, errNoKernel
	}
	compressed := file[start : start+length]
	if !bytes.HasPrefix(compressed, []byte("\xfd7zXZ\x00")) {
		return nil, errNotXZ
	}
	return compressed, nil
}
