package sandbox

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// modeEnv makes the test binary play the program in the sandbox instead of
// running tests. The tests themselves stay outside: what they look at is the
// edge of a sandbox.
const modeEnv = "SANDBOX_TEST_MODE"

// patience bounds every wait; nothing here takes more than some milliseconds.
const patience = 20 * time.Second

var modes = map[string]func() error{
	"report": report,
	"fail":   func() error { return errors.New("as asked for") },
	"hold":   hold,
	"child":  func() error { return block(os.Stdin) },
	"signal": waitForSignal,
}

func TestMain(m *testing.M) {
	mode := os.Getenv(modeEnv)
	if mode == "" {
		os.Exit(m.Run())
	}
	os.Exit(play(mode))
}

// Exit codes of the program.
const (
	failed  = 3
	refused = 4
)

func play(mode string) int {
	err := Run(modes[mode])
	var exit *ExitError
	switch {
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, new(*NotAllowedError)):
		fmt.Fprintln(os.Stderr, err)
		return refused
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return failed
	}
	return 0
}

// view is what a program sees from where it is.
type view struct {
	PID, UID       int
	Links          []string
	LoopbackUp     bool
	NetnsID        string
	Run, SysLinks  []string
	Inside, Marked bool
	Dir            string
	Args           []string
}

func look() (view, error) {
	v := view{PID: os.Getpid(), UID: os.Getuid(), Inside: Inside(), Args: os.Args}
	_, v.Marked = os.LookupEnv(callerEnv)
	v.Dir, _ = os.Getwd()
	v.Run, v.SysLinks = names("/run"), names("/sys/class/net")
	v.NetnsID, _ = os.Readlink("/proc/self/ns/net")
	links, err := net.Interfaces()
	for _, l := range links {
		v.Links = append(v.Links, l.Name)
		v.LoopbackUp = v.LoopbackUp || l.Name == "lo" && l.Flags&net.FlagUp != 0
	}
	return v, err
}

func names(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var ns []string
	for _, e := range entries {
		ns = append(ns, e.Name())
	}
	return ns
}

func report() error {
	v, err := look()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(v)
}

// hold makes what could be left behind, a namespace and a process, and blocks.
func hold() error {
	ns, err := CreateNetns("held")
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), modeEnv+"=child")
	cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
	if err := ns.Start(cmd); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "ready")
	return cmd.Wait()
}

// block reads until the end of r.
func block(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func waitForSignal() error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	fmt.Fprintln(os.Stdout, "ready")
	fmt.Fprintln(os.Stdout, <-signals)
	return block(os.Stdin)
}

// program is the test binary in the given mode.
func program(t *testing.T, mode string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"program", "argument one"}
	// Programs with the race detector wait a second before they exit otherwise.
	cmd.Env = append(os.Environ(), modeEnv+"="+mode, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	return cmd
}

// as makes cmd run as the user uid.
func as(cmd *exec.Cmd, uid int) *exec.Cmd {
	if uid != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	return cmd
}

// users are those that a sandbox has to work for: root and others, as far as
// this test may become them.
func users(t *testing.T) map[string]int {
	t.Helper()
	if uid := os.Getuid(); uid != 0 {
		return map[string]int{"user": uid}
	}
	return map[string]int{"root": 0, "nobody": 65534}
}

// needSandbox skips the test where this machine doesn't allow sandboxes. Root
// gets no excuse.
func needSandbox(t *testing.T) {
	t.Helper()
	cmd := program(t, "report")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	_ = cmd.Run()
	if cmd.ProcessState.ExitCode() == refused && os.Getuid() != 0 {
		t.Skip(strings.TrimSpace(stderr.String()))
	}
}

func run(t *testing.T, cmd *exec.Cmd) view {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var v view
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return v
}

func TestInsideIsPrivate(t *testing.T) {
	needSandbox(t)
	for name, uid := range users(t) {
		t.Run(name, func(t *testing.T) {
			before, err := look()
			if err != nil {
				t.Fatal(err)
			}
			in := run(t, as(program(t, "report"), uid))
			after, err := look()
			if err != nil {
				t.Fatal(err)
			}
			checkInside(t, before, in)
			if !slices.Equal(before.Links, after.Links) || !slices.Equal(before.Run, after.Run) {
				t.Errorf("the machine was changed: before %+v, after %+v", before, after)
			}
		})
	}
}

func checkInside(t *testing.T, out, in view) {
	t.Helper()
	if in.PID != 1 || in.UID != 0 || !in.Inside || out.Inside {
		t.Errorf("process %d of user %d, inside %v, but the first, of root, is expected", in.PID, in.UID, in.Inside)
	}
	if in.NetnsID == out.NetnsID || !slices.Equal(in.Links, []string{"lo"}) || !in.LoopbackUp {
		t.Errorf("network %s with links %v, lo up: %v; the machine's is %s", in.NetnsID, in.Links, in.LoopbackUp, out.NetnsID)
	}
	if !slices.Equal(in.SysLinks, []string{"lo"}) {
		t.Errorf("/sys/class/net shows %v", in.SysLinks)
	}
	if !slices.Equal(in.Run, []string{filepath.Base(marker)}) {
		t.Errorf("/run holds %v, not just the marker", in.Run)
	}
	if in.Marked {
		t.Errorf("%s is left in the environment", callerEnv)
	}
	if in.Dir != out.Dir || !slices.Equal(in.Args, []string{"program", "argument one"}) {
		t.Errorf("folder %s, arguments %q are not those outside", in.Dir, in.Args)
	}
}

func TestExitCodeIsPassedOn(t *testing.T) {
	needSandbox(t)
	cmd := program(t, "fail")
	cmd.Stderr = nil
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != failed {
		t.Fatalf("got %v, want exit status %d", err, failed)
	}
}

// started is a program whose output ends when the last of its processes, in or
// out of the sandbox, has ended: they all hold the pipe's other end.
type started struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	reader *os.File
	out    *bufio.Reader
}

func startReady(t *testing.T, cmd *exec.Cmd) *started {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	s := &started{cmd: cmd, stdin: stdin, reader: r, out: bufio.NewReader(r)}
	t.Cleanup(func() { _ = cmd.Process.Kill(); stdin.Close(); r.Close() })
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if got := s.line(t); got != "ready" {
		t.Fatalf("the program says %q", got)
	}
	return s
}

func (s *started) line(t *testing.T) string {
	t.Helper()
	line, err := s.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// ended waits until no process of the program is left and returns the exit
// code of the outer one.
func (s *started) ended(t *testing.T) int {
	t.Helper()
	if rest, err := io.ReadAll(s.out); err != nil {
		t.Fatalf("processes are left: %v after %q", err, rest)
	}
	err := s.cmd.Wait()
	if status := s.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal())
	} else if err == nil {
		return 0
	}
	return s.cmd.ProcessState.ExitCode()
}

func TestNothingOutlivesAKill(t *testing.T) {
	needSandbox(t)
	victims := map[string]func(*testing.T, int) int{
		"outer": func(_ *testing.T, outer int) int { return outer },
		"inner": childOf,
	}
	for user, uid := range users(t) {
		for victim, pid := range victims {
			t.Run(user+"/"+victim, func(t *testing.T) {
				s := startReady(t, as(program(t, "hold"), uid))
				if err := syscall.Kill(pid(t, s.cmd.Process.Pid), syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				if got, want := s.ended(t), 128+int(syscall.SIGKILL); got != want {
					t.Errorf("exit code %d, want %d", got, want)
				}
				if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), "netns/held") {
					t.Error("the namespace is mounted on the machine")
				}
			})
		}
	}
}

// childOf finds the one child of the process pid.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		stat, _ := os.ReadFile(path) // gone in the meantime
		_, fields, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(fields); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return child
		}
	}
	t.Fatalf("process %d has no child", pid)
	return 0
}

func TestSignalsArePassedOnOnce(t *testing.T) {
	needSandbox(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			s := startReady(t, program(t, "signal"))
			if err := s.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if got := s.line(t); got != sig.String() {
				t.Errorf("the program in the sandbox got %q", got)
			}
			s.stdin.Close()
			if code := s.ended(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestParentThatEndedTooEarlyIsNoticed(t *testing.T) {
	for name, end := range map[string]func(*os.File) error{
		"ended": (*os.File).Close,
		"alive": func(*os.File) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if err := end(w); err != nil {
				t.Fatal(err)
			}
			if err := parentGone(r); (err != nil) != (name == "ended") {
				t.Errorf("parentGone: %v", err)
			}
		})
	}
}

func TestNamespacesOnlyInASandbox(t *testing.T) {
	if _, err := CreateNetns("outside"); err == nil || !strings.Contains(err.Error(), "sandbox.Run") {
		t.Fatalf("got error %v", err)
	}
}

func TestAdvice(t *testing.T) {
	tests := []struct {
		name    string
		uid     int
		sysctls map[string]string
		want    string
	}{
		{"root", 0, nil, "CAP_SYS_ADMIN"},
		{"debian", 1000, map[string]string{"kernel.unprivileged_userns_clone": "0"}, "kernel.unprivileged_userns_clone is 0"},
		{"limit", 1000, map[string]string{"user.max_user_namespaces": "0"}, "user.max_user_namespaces is 0"},
		{"ubuntu", 1000, map[string]string{
			"kernel.unprivileged_userns_clone":             "1",
			"user.max_user_namespaces":                     "1000",
			"kernel.apparmor_restrict_unprivileged_userns": "1",
		}, "AppArmor"},
		{"unknown", 1000, nil, "seccomp"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := advice(tt.uid, func(name string) string { return tt.sysctls[name] })
			if !strings.Contains(got, tt.want) || (tt.uid != 0) != strings.Contains(got, "sudo") {
				t.Errorf("got %q", got)
			}
		})
	}
}
