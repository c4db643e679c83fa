package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one that was started here, known by its number and the time of its
// start, since numbers are given again.
type process struct {
	pid   int
	start string
}

func (p process) path(file string) string {
	return filepath.Join("/proc", strconv.Itoa(p.pid), file)
}

// find looks a running process up.
func find(pid int) (process, error) {
	p := process{pid: pid}
	stat, err := os.ReadFile(p.path("stat"))
	if err != nil {
		return process{}, fmt.Errorf("process %d has ended: %w", pid, err)
	}
	// The name, in parentheses, may have blanks. What follows it are the fields
	// from the third on: the state; and as the 22nd, the time of its start.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const state, start = 0, 19
	if len(fields) <= start || fields[state] == "Z" {
		return process{}, fmt.Errorf("process %d has ended", pid)
	}
	p.start = fields[start]
	return p, nil
}

func (p process) runs() bool {
	now, err := find(p.pid)
	return err == nil && now == p
}

// kill ends the process and waits until it is gone.
func (p process) kill(ctx context.Context) error {
	if !p.runs() {
		return nil
	}
	if err := unix.Kill(p.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	return Poll(ctx, fmt.Sprintf("end of process %d", p.pid), func(context.Context) error {
		if p.runs() {
			return errors.New("it still runs")
		}
		return nil
	})
}

// record keeps a first process for later runs of this program.
func (c *Cluster) record(name string, p process) error {
	return c.write(c.path("pids", name), fmt.Sprintf("%d %s\n", p.pid, p.start))
}

// first is the first process of a node or of the switch.
func (c *Cluster) first(name string) (process, error) {
	text, err := os.ReadFile(c.path("pids", name))
	if err != nil {
		return process{}, fmt.Errorf("find the first process of %s: %w", name, err)
	}
	var p process
	if _, err := fmt.Sscan(string(text), &p.pid, &p.start); err != nil {
		return process{}, fmt.Errorf("read %s: %w", c.path("pids", name), err)
	}
	if !p.runs() {
		return p, fmt.Errorf("the first process of %s, %d, has ended", name, p.pid)
	}
	return p, nil
}

// Command is a program that will run in a node; or in the switch's network, as
// a client of the cluster, with the machine's files.
func (c *Cluster) Command(ctx context.Context, node string, args ...string) (*exec.Cmd, error) {
	p, err := c.first(node)
	if err != nil {
		return nil, err
	}
	enter := []string{"--target", strconv.Itoa(p.pid), "--net"}
	if node != Switch {
		enter = append(enter, "--mount", "--uts", "--ipc", "--pid", "--wd=/")
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(append(enter, "--"), args...)...)
	cmd.Env = append(os.Environ(), "PATH="+c.Bin+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	return cmd, nil
}

// run runs a program in a node and returns what it wrote.
func (c *Cluster) run(ctx context.Context, node string, args ...string) (string, error) {
	cmd, err := c.Command(ctx, node, args...)
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s in %s: %w: %s", strings.Join(args, " "), node, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// start starts a program in a node that outlives this one.
func (c *Cluster) start(node, name string, args ...string) error {
	_, err := c.launch(node, name, args...)
	return err
}

// launch is start; the channel is closed if the program ends before this one.
func (c *Cluster) launch(node, name string, args ...string) (<-chan struct{}, error) {
	cmd, err := c.Command(context.Background(), node, args...)
	if err != nil {
		return nil, err
	}
	log, err := c.openLog(node, name)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", name, node, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // why it ended is in its log
		close(ended)
	}()
	return ended, nil
}

func (c *Cluster) openLog(node, name string) (*os.File, error) {
	path := c.LogFile(node, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// processes are a node's that run the program.
func (c *Cluster) processes(node, program string) ([]process, error) {
	p, err := c.first(node)
	if err != nil {
		return nil, err
	}
	namespace, err := os.Readlink(p.path("ns/pid"))
	if err != nil {
		return nil, err
	}
	links, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, link := range links {
		if at, err := os.Readlink(link); err != nil || at != namespace {
			continue // ended, or not of this node
		}
		dir := filepath.Dir(filepath.Dir(link))
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && called(dir) == program {
			if p, err := find(pid); err == nil {
				found = append(found, p)
			}
		}
	}
	return found, nil
}

// called is the name that a process was started by.
func called(dir string) string {
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return ""
	}
	name, _, _ := strings.Cut(string(line), "\x00")
	return filepath.Base(name)
}

// Kill ends the program in a node as a crash does, and waits for that.
func (c *Cluster) Kill(ctx context.Context, node, program string) error {
	found, err := c.processes(node, program)
	if err != nil {
		return err
	}
	for _, p := range found {
		if err := p.kill(ctx); err != nil {
			return fmt.Errorf("kill %s in %s: %w", program, node, err)
		}
	}
	return nil
}

// pollPause is between two looks at what notifies nobody.
const pollPause = 100 * time.Millisecond

// Poll calls look until it returns no error, or the context ends. It returns the
// error of the last call that could finish.
func Poll(ctx context.Context, what string, look func(context.Context) error) error {
	ticker := time.NewTicker(pollPause)
	defer ticker.Stop()
	var last error
	for {
		err := look(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // else it may say no more than that time is up
			last = err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last: %w", what, context.Cause(ctx), last)
		}
	}
}
