package ipam

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// cursorSize is the length of the longest address in text form, and a newline.
// All cursors have it, so that a shorter address leaves nothing of a longer
// one behind.
const cursorSize = 39 + 1

// cursor remembers which address of a range set was given last. It is a hint
// that keeps a freed address from being given again soon; the reservations are
// what counts. So nothing here fails: a cursor that can't be read or written
// (a full disk, garbage in it) just doesn't tell. ADDs at the same moment may
// set it back by as many addresses as there are of them.
type cursor struct {
	file *os.File // nil if it can't be had
}

func (s *Store) openCursor(set RangeSet) cursor {
	path := filepath.Join(s.dir, cursorsDir, strings.ReplaceAll(set[0].Subnet.String(), "/", "-"))
	var c cursor
	_ = s.withDirs(func() (err error) {
		c.file, err = openFile(path, os.O_RDWR|os.O_CREATE)
		return err
	})
	return c
}

// read is the address given last, or the zero Addr if that isn't known.
func (c cursor) read() netip.Addr {
	var buf [cursorSize]byte
	if c.file == nil {
		return netip.Addr{}
	}
	n, _ := c.file.ReadAt(buf[:], 0)
	a, err := netip.ParseAddr(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return netip.Addr{}
	}
	return a
}

func (c cursor) write(a netip.Addr) {
	if c.file != nil {
		line := a.AppendTo(make([]byte, 0, cursorSize))
		for len(line) < cursorSize-1 {
			line = append(line, ' ')
		}
		_, _ = c.file.WriteAt(append(line, '\n'), 0)
	}
}

func (c cursor) close() {
	if c.file != nil {
		_ = c.file.Close()
	}
}
