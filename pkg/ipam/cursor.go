package ipam

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nofollow"
)

// cursorSize is the length of the longest address in text form, and a newline.
// Every cursor has this length, so that a shorter address overwrites a longer
// one completely.
const cursorSize = 39 + 1

// cursor remembers which address of a range set was given last, so that a freed
// address isn't given again soon. A cursor is a hint: the reservations decide.
// So a cursor that can't be read or written (a full disk, garbage in the file)
// counts as unknown. The only error is for a cursor that is no file (package
// nofollow). ADDs that run at the same time may set
// a cursor back by as many addresses as there are ADDs.
type cursor struct {
	file *os.File // nil if the file can't be opened; then every call fails
}

func (r *Reservations) openCursor(set RangeSet) (cursor, error) {
	folder, err := nofollow.Make(filepath.Join(r.dir, cursorsDir))
	if err != nil {
		return unknown(err)
	}
	defer folder.Close()
	f, err := folder.OpenFile(strings.ReplaceAll(set[0].Subnet.String(), "/", "-"), unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return unknown(err)
	}
	return cursor{f}, nil
}

func unknown(err error) (cursor, error) {
	if errors.Is(err, nofollow.ErrUnsafe) {
		return cursor{}, err
	}
	return cursor{}, nil
}

// read returns the address given last, or the zero Addr if it is unknown.
func (c cursor) read() netip.Addr {
	var buf [cursorSize]byte
	n, _ := c.file.ReadAt(buf[:], 0)
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
	_, _ = c.file.WriteAt(append(line, '\n'), 0)
}

func (c cursor) close() { _ = c.file.Close() }
