package ipam

import (
	"net/netip"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// cursorSize is the length of the longest address in text form, and a newline.
// Every cursor has this length, so that a shorter address overwrites a longer
// one completely.
const cursorSize = 39 + 1

// cursor remembers which address of a range set was given last, so that a freed
// address isn't given again soon. A cursor is a hint: the reservations decide.
// So nothing here fails: a cursor that can't be read or written (a full disk,
// garbage in the file) counts as unknown. ADDs that run at the same time may set
// a cursor back by as many addresses as there are ADDs.
type cursor struct {
	fd int // -1 if the file can't be opened
}

func (r *Reservations) openCursor(set RangeSet) cursor {
	path := filepath.Join(r.dir, cursorsDir, strings.ReplaceAll(set[0].Subnet.String(), "/", "-"))
	c := cursor{fd: -1}
	_ = r.withDirs(func() (err error) {
		// os.OpenFile would offer the file to the poller first, which takes nine
		// system calls.
		c.fd, err = unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		return err
	})
	return c
}

// read returns the address given last, or the zero Addr if it is unknown.
func (c cursor) read() netip.Addr {
	var buf [cursorSize]byte
	n, _ := unix.Pread(c.fd, buf[:], 0)
	a, err := netip.ParseAddr(strings.TrimSpace(string(buf[:max(n, 0)])))
	if err != nil {
		return netip.Addr{}
	}
	return a
}

func (c cursor) write(a netip.Addr) {
	line := a.AppendTo(make([]byte, 0, cursorSize))
	for len(line) < cursorSize-1 {
		line = append(line, ' ')
	}
	_, _ = unix.Pwrite(c.fd, append(line, '\n'), 0)
}

func (c cursor) close() { _ = unix.Close(c.fd) }
