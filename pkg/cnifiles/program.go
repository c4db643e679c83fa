package cnifiles

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/overlay-cni/overlay-cni/internal/nofollow"
)

// programMode lets everyone run the program: rootless runtimes run plugins too.
const programMode = 0o755

// ErrNoProgram means that the file to install can't be read.
var ErrNoProgram = errors.New("read the plugin to install")

// Program is the plugin's program where runtimes look for it.
type Program struct {
	Path string
}

// Install makes the program a copy of the file from. It reports whether it wrote
// anything. Processes that run an older program keep it. The error is ErrNoProgram if
// the file from can't be read.
func (p Program) Install(from string) (bool, error) {
	content, err := os.ReadFile(from)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrNoProgram, err)
	}
	if p.is(content) {
		return false, nil
	}
	return true, p.file(content).put()
}

// Remove removes the program. It reports whether there was one.
func (p Program) Remove() (bool, error) { return p.file(nil).remove() }

func (p Program) file(content []byte) file { return file{p.Path, content, programMode} }

// is reports whether the program has the content and everyone may run it. A program
// that can't be read counts as different: writing it then says what is wrong.
func (p Program) is(content []byte) bool {
	info, err := os.Lstat(p.Path)
	if err != nil || info.Mode() != fs.FileMode(programMode) { // a symbolic link has another mode
		return false
	}
	have, err := nofollow.ReadFile(p.Path)
	return err == nil && bytes.Equal(have, content)
}
