package cnifiles

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
)

// programMode is for everyone: runtimes without root run plugins too.
const programMode = 0o755

// Program is the plugin's program where runtimes look for it.
type Program struct {
	Path string
}

// Install makes the program a copy of the file from, and tells whether there
// was anything to do. Processes that run the old one go on with that.
func (p Program) Install(from string) (bool, error) {
	content, err := os.ReadFile(from)
	if err != nil {
		return false, fmt.Errorf("read the plugin to install: %w", err)
	}
	if p.is(content) {
		return false, nil
	}
	return true, p.file(content).put()
}

// Remove removes the program, and tells whether there was one.
func (p Program) Remove() (bool, error) { return p.file(nil).remove() }

func (p Program) file(content []byte) file { return file{p.Path, content, programMode} }

// is tells whether the program has the content, and may be run by everyone. One
// that can't be read is put anew, which says why if that can't be done either.
func (p Program) is(content []byte) bool {
	info, err := os.Lstat(p.Path)
	if err != nil || info.Mode() != fs.FileMode(programMode) { // which a symbolic link has not
		return false
	}
	have, err := os.ReadFile(p.Path)
	return err == nil && bytes.Equal(have, content)
}
