package attachment

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrBusy says that another process works on an attachment.
var ErrBusy = errors.New("another process works on the attachment")

// lockPatience is how long an ADD or DEL waits for another process that works on
// the same attachment. A process that takes longer hangs: it is suspended, or
// blocked in the kernel. Container runtimes repeat a DEL that failed.
const lockPatience = 30 * time.Second

// errGone says that another process removed the file during the wait for its lock.
var errGone = errors.New("the attachment was removed")

// lock locks f. The previous holder of the lock may have removed the file: then the
// error is errGone.
func (s *Store) lock(f *os.File, wait time.Duration) error {
	err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = await(f, wait)
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Nlink == 0 {
		return errGone
	}
	return nil
}

// await waits for the lock. flock(2) has no timeout, so a goroutine waits
// instead. It uses a second descriptor of the same open file, which shares the
// lock.
func await(f *os.File, wait time.Duration) error {
	if wait == 0 {
		return ErrBusy
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	waiting := os.NewFile(uintptr(fd), f.Name())
	locked := make(chan error, 1)
	go func() {
		err := flock(waiting, unix.LOCK_EX)
		locked <- errors.Join(err, waiting.Close())
	}()
	late := time.NewTimer(wait)
	defer late.Stop()
	select {
	case err := <-locked:
		return err
	case <-late.C:
		return fmt.Errorf("%w for %s already%s", ErrBusy, wait, holder(f))
	}
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// holder says which process has the lock, or nothing if that is unknown: the
// kernel's list (proc_locks(5)) leaves out processes of other PID namespaces.
func holder(f *os.File) string {
	list, err := os.Open("/proc/locks")
	if err != nil {
		return ""
	}
	defer list.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return ""
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for lines := bufio.NewScanner(list); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 1234 00:1b:5678 0 EOF
		if words := strings.Fields(lines.Text()); len(words) > 5 && words[1] == "FLOCK" && words[5] == file {
			return fmt.Sprintf(": process %s, end it if it is stuck", words[4])
		}
	}
	return ""
}
