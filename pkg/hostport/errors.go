package hostport

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

var (
	// ErrTaken is for a host port that another pod has; the error is a
	// *TakenError too.
	ErrTaken = errors.New("host port is taken")
	// ErrUnsupported is what a kernel gets that lacks a part of nf_tables.
	ErrUnsupported = errors.New("the kernel lacks nf_tables or a part of it: load the modules nft_chain_nat, nft_nat, " +
		"nft_masq and nft_fib_inet, or use Linux 5.4 or newer with CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_MASQ " +
		"and CONFIG_NFT_FIB_INET")
	// ErrUnstable is for rules that other programs change faster than they can
	// be read.
	ErrUnstable = errors.New("the rules of the host kept changing")
)

// TakenError says who has a host port.
type TakenError struct {
	// Wanted is what could not be added.
	Wanted Element
	// Holder is what is there instead.
	Holder Element
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("%s: %s leads to %s already", ErrTaken, e.Wanted.Port(),
		netip.AddrPortFrom(e.Holder.Pod, e.Holder.ContainerPort))
}

// Is makes errors.Is(err, ErrTaken) work.
func (e *TakenError) Is(target error) bool { return target == ErrTaken }

// explain says what an error of the kernel means for the one who reads it.
func explain(doing string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w: CAP_NET_ADMIN is needed", doing, err)
	case errors.Is(err, unix.EMSGSIZE):
		return fmt.Errorf("%s: %w: raise net.core.wmem_max, the transaction has to fit into it", doing, err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%s: %w (%w)", doing, ErrUnsupported, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
