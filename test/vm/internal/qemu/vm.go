package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/test/vm/internal/debian"
	"github.com/overlay-cni/overlay-cni/test/vm/internal/image"
)

// Package is the Debian package with QEMU.
const Package = "qemu-system-x86"

// memory is in MiB. The root file system takes 100 of it.
const memory = 512

// Config says what a machine is made of.
type Config struct {
	Name    string
	Tree    *debian.Tree // where QEMU is, and the image
	Image   image.Image
	Wire    *sandbox.Netns
	Bridge  string // in Wire
	MAC     net.HardwareAddr
	Console string // file that the kernel's messages are added to
}

// VM is a running machine.
type VM struct {
	Line net.Conn // to the machine's serial port
	cmd  *exec.Cmd
	done chan struct{} // closed when QEMU has ended
}

// Start turns a machine on.
func Start(c Config) (*VM, error) {
	vm, err := start(c)
	if err != nil {
		return nil, fmt.Errorf("start virtual machine %s: %w", c.Name, err)
	}
	return vm, nil
}

func start(c Config) (*VM, error) {
	tap, err := plug(c.Wire, c.Bridge, "tap-"+c.Name)
	if err != nil {
		return nil, err
	}
	defer tap.Close() // QEMU has it then, and the device goes with QEMU
	line, far, err := pair()
	if err != nil {
		return nil, err
	}
	defer far.Close()
	console, err := os.OpenFile(c.Console, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, errors.Join(err, line.Close())
	}
	defer console.Close()
	cmd := c.Tree.Command(context.Background(), "qemu-system-x86_64", c.arguments()...)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.ExtraFiles = []*os.File{tap, far}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, line.Close())
	}
	vm := &VM{Line: line, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(vm.done)
		_ = cmd.Wait() // that it ended is all there is to know
	}()
	return vm, nil
}

// commandLine is the kernel's. A panic ends QEMU. Interfaces keep their names. The
// timer is not checked: on a host with too much to do its ticks come so late
// that the kernel takes it for broken, and panics.
const commandLine = "console=ttyS0 quiet panic=-1 net.ifnames=0 no_timer_check mitigations=off nokaslr"

// arguments are QEMU's. Files 3 and 4 are the first of the ExtraFiles.
func (c Config) arguments() []string {
	return append(accelerator(),
		"-machine", "pc", "-m", fmt.Sprint(memory), "-smp", "1",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", c.Image.Kernel, "-initrd", c.Image.Initrd,
		"-append", commandLine,
		"-serial", "stdio",
		"-netdev", "tap,id=net,fd=3",
		"-device", "virtio-net-pci,netdev=net,romfile=,mac="+c.MAC.String(),
		"-chardev", "socket,id=line,fd=4",
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=line",
	)
}

// accelerator tells how to run the machine's instructions. A /dev/kvm alone
// proves nothing: in some virtual machines it is there, and no kernel gets far
// with it. The plain processor model is several times faster to emulate than
// one with everything; random numbers at the start take rdrand.
func accelerator() []string {
	cpu, _ := os.ReadFile("/proc/cpuinfo")
	flags := strings.Fields(string(cpu))
	kvm := unix.Access("/dev/kvm", unix.W_OK) == nil
	for _, f := range flags {
		if kvm && (f == "vmx" || f == "svm") {
			return []string{"-accel", "kvm", "-cpu", "host"}
		}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "qemu64,+rdrand"}
}

// Kill is a power cut.
func (vm *VM) Kill() error {
	err := vm.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-vm.done // a killed process ends
	return errors.Join(err, vm.Line.Close())
}

// pair is a line with two ends: one for us, one for QEMU.
func pair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "line"), os.NewFile(uintptr(fds[1]), "line")
	defer near.Close()
	conn, err := net.FileConn(near)
	if err != nil {
		return nil, nil, errors.Join(err, far.Close())
	}
	return conn, far, nil
}
