package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// InitPath is where this program has to be in the machine's root file system:
// the kernel starts it as the first process.
const InitPath = "/init"

// path is where the machine's programs are.
const path = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Main is the first process. It returns only if the machine can't be turned off.
func Main() error {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err) // on the console
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func serve() error {
	if err := errors.Join(os.Setenv("PATH", path), mountAll()); err != nil {
		return err
	}
	// Devices exist from the start, and nothing else sets them up.
	out, err := exec.Command("modprobe", "--all", "virtio_pci", "virtio_net", "virtio_console").CombinedOutput()
	if err != nil {
		return fmt.Errorf("load the drivers of the machine's devices: %w: %s", err, out)
	}
	line, err := openLine()
	if err != nil {
		return err
	}
	Serve(line)
	return nil
}

func mountAll() error {
	for _, m := range []struct{ kind, on string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
	} {
		if err := os.MkdirAll(m.on, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.on, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.on, err)
		}
	}
	return os.MkdirAll("/run/log", 0o755)
}

// openLine opens the first port of the virtual serial device, which the driver
// makes some time after it was loaded.
func openLine() (line *os.File, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err = probe.Eventually(ctx, func(context.Context) error {
		ports, err := filepath.Glob("/dev/vport*p1")
		if err != nil || len(ports) != 1 {
			return fmt.Errorf("look for the serial port: %v, %w", ports, err)
		}
		line, err = os.OpenFile(ports[0], os.O_RDWR, 0)
		return err
	})
	return line, err
}
