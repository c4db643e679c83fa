package hosts

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// observer counts the daemon's rounds from outside: each round reads the published
// file, which inotify reports.
type observer struct {
	file *os.File
	buf  []byte
}

// watchRounds observes a host that has published its state.
func (f *fleet) watchRounds(h *lab.Host) *observer {
	f.t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	f.must(err)
	r := &observer{file: os.NewFile(uintptr(fd), "inotify"), buf: make([]byte, 4096)}
	f.t.Cleanup(func() { r.file.Close() })
	_, err = unix.InotifyAddWatch(fd, filepath.Join(h.RunDir(), nodestate.FileName), unix.IN_OPEN)
	f.must(err)
	return r
}

// wait returns after so many more rounds.
func (r *observer) wait(ctx context.Context, count int) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := r.file.SetReadDeadline(deadline); err != nil {
			return err
		}
	}
	for seen := 0; seen < count; {
		n, err := r.file.Read(r.buf)
		if err != nil {
			return fmt.Errorf("%d rounds of %d: %w", seen, count, err)
		}
		seen += n / unix.SizeofInotifyEvent // events of a file have no name
	}
	return nil
}

// processOf finds the daemon of a host by its command line.
func (f *fleet) processOf(h *lab.Host) (pid int) {
	f.t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	f.must(err)
	for _, name := range names {
		args, err := os.ReadFile(name)
		if err == nil && bytes.Contains(args, []byte("\x00run\x00")) && bytes.Contains(args, []byte("\x00"+h.RunDir()+"\x00")) {
			pid, err = strconv.Atoi(filepath.Base(filepath.Dir(name)))
			f.must(err)
			return pid
		}
	}
	f.t.Fatalf("no overlayd runs on %s", h.Name)
	return 0
}

// ticks are the clock ticks that a process has used, of which there are 100 in
// a second: the 14th and 15th field of proc_pid_stat(5), the second of which is
// a name in parentheses.
func (f *fleet) ticks(pid int) int {
	f.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f.must(err)
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	f.must(err)
	system, err := strconv.Atoi(fields[12])
	f.must(err)
	return user + system
}

// disturb adds and deletes a route all the time. The function that it returns
// ends that and returns the number of changes.
func (f *fleet) disturb(h *lab.Host) (stop func() (changes int)) {
	f.t.Helper()
	const every = 5 * time.Millisecond
	l, err := h.Handle().LinkByName("eth0")
	f.must(err)
	route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(198, 51, 100, 0), Mask: net.CIDRMask(24, 32)}}
	quit, done := make(chan struct{}), make(chan error, 1)
	changes := 0
	go func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-quit:
				done <- nil
				return
			case <-ticker.C:
			}
			if err := h.Handle().RouteAdd(route); err != nil {
				done <- err
				return
			}
			if err := h.Handle().RouteDel(route); err != nil {
				done <- err
				return
			}
			changes += 2
		}
	}()
	return func() int {
		f.t.Helper()
		close(quit)
		f.must(<-done)
		return changes
	}
}
