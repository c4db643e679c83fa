package iptables

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrNoProgram is what Sync returns where ip_tables' rules keep pods' packets
// from passing, or have to masquerade them, and the one program that can change
// them is missing.
var ErrNoProgram = errors.New("iptables-legacy 1.6.2 or later is needed")

// failed says what was being done when an error came.
func failed(doing string, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%s: %w: CAP_NET_ADMIN is needed", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
