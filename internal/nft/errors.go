package nft

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var (
	// ErrUnsupported says that the kernel lacks nf_tables or a part of it.
	ErrUnsupported = errors.New("the kernel lacks nf_tables or a part of it: load the modules nft_chain_nat, nft_nat, " +
		"nft_masq and nft_fib_inet, or use Linux 5.4 or newer with CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_MASQ " +
		"and CONFIG_NFT_FIB_INET")
	// ErrUnstable says that other programs changed rules, in any table of the
	// network namespace, during each of many attempts to read.
	ErrUnstable = errors.New("other programs keep changing the host's rules")
)

// RefusedError is a transaction that the kernel refused.
type RefusedError struct {
	// Op is the operation that the kernel refused first. It is nil if the kernel
	// refused the whole transaction: unix.ERESTART says that the transaction is
	// bound to another generation.
	Op    *Op
	Errno unix.Errno
	Hint  string // the kernel's explanation, often empty
}

func (e *RefusedError) Error() string {
	text := e.Errno.Error()
	if e.Hint != "" {
		text += fmt.Sprintf(" (kernel: %s)", e.Hint)
	}
	if e.Op != nil {
		text = e.Op.String() + ": " + text
	}
	return text
}

// Unwrap makes errors.Is(err, unix.ENOENT) work.
func (e *RefusedError) Unwrap() error { return e.Errno }

// explain says what an error of the kernel means to its reader.
func explain(doing string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w: CAP_NET_ADMIN is needed", doing, err)
	case errors.Is(err, unix.EMSGSIZE):
		return fmt.Errorf("%s: %w: raise net.core.wmem_max, the transaction has to fit into it", doing, err)
	case lacking(err):
		return fmt.Errorf("%s: %w (%w)", doing, ErrUnsupported, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// lacking reports whether the kernel says that it lacks nf_tables or a part of it,
// such as a type of chain or an instruction.
func lacking(err error) bool {
	if errors.Is(err, ErrUnsupported) {
		return false // explained already
	}
	var refused *RefusedError
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) ||
		(errors.As(err, &refused) && refused.Errno == unix.ENOENT && refused.Op != nil && refused.Op.makes())
}
