package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// Service is what can be asked for. Its methods have the form that net/rpc
// wants; Client has them in the form that people want.
type Service struct {
	mu      sync.Mutex
	daemons map[string]*exec.Cmd
	streams []*probe.Stream
}

// Serve answers until line ends.
func Serve(line io.ReadWriteCloser) {
	server := rpc.NewServer()
	// It fails only for a type without methods.
	_ = server.RegisterName(serviceName, &Service{daemons: map[string]*exec.Cmd{}})
	server.ServeConn(line)
}

const serviceName = "Guest"

// Nothing stands for no argument, or no result.
type Nothing struct{}

// Hello does nothing: its answer says that the machine runs.
func (s *Service) Hello(Nothing, *Nothing) error { return nil }

// Command is a program to be run.
type Command struct {
	Args  []string // the program is the first
	Env   []string // added to PATH
	Stdin []byte
}

// Output is what a program left.
type Output struct {
	Stdout, Stderr []byte
	Code           int // as exec.ProcessState.ExitCode
}

// Run runs a program to its end.
func (s *Service) Run(c Command, out *Output) error {
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdin = bytes.NewReader(c.Stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	*out = Output{stdout.Bytes(), stderr.Bytes(), cmd.ProcessState.ExitCode()}
	return nil
}

// File is a file to be written.
type File struct {
	Path string
	Text []byte
}

// WriteFile replaces a file in one step: no reader sees a part of it.
func (s *Service) WriteFile(f File, _ *Nothing) error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(f.Path+".new", f.Text, 0o644); err != nil {
		return err
	}
	return os.Rename(f.Path+".new", f.Path)
}

// LogOf is the file with what a daemon writes.
func LogOf(daemon string) string { return "/run/log/" + daemon }

// Start starts a program that is to stay. It is called by the last part of its
// path, and appends to its log.
func (s *Service) Start(c Command, _ *Nothing) error {
	name := nameOf(c)
	log, err := os.OpenFile(LogOf(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.daemons[name] = cmd
	return nil
}

// Signal is a signal to a program.
type Signal struct {
	Daemon string
	Signal syscall.Signal
}

// End sends a signal to a daemon that was started, and waits for its end.
func (s *Service) End(sig Signal, how *string) error {
	s.mu.Lock()
	cmd := s.daemons[sig.Daemon]
	delete(s.daemons, sig.Daemon)
	s.mu.Unlock()
	if cmd == nil {
		return fmt.Errorf("no %s was started", sig.Daemon)
	}
	if err := cmd.Process.Signal(sig.Signal); err != nil {
		return err
	}
	_ = cmd.Wait() // how it ended is in its state
	*how = cmd.ProcessState.String()
	return nil
}

// netns opens a named network namespace; "" is the machine's own.
func netns(name string) (*sandbox.Netns, error) {
	if name == "" {
		return sandbox.OpenNetns("/proc/thread-self/ns/net")
	}
	return sandbox.OpenNetns("/run/netns/" + name)
}

// nameOf is the last part of a program's path.
func nameOf(c Command) string { return filepath.Base(c.Args[0]) }
