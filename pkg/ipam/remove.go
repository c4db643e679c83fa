package ipam

import (
	"errors"
	"os"
	"path/filepath"
)

// RemoveAll forgets all attachments and reservations. It is for a host that
// leaves the network, where no plugin runs any more.
func (s *Store) RemoveAll() error {
	var errs []error
	for _, d := range []string{addressesDir, attachmentsDir, cursorsDir} {
		errs = append(errs, os.RemoveAll(filepath.Join(s.dir, d)))
	}
	return errors.Join(errs...)
}
