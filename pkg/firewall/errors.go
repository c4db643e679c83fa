package firewall

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is what a kernel gets that lacks a part of nf_tables.
var ErrUnsupported = errors.New("the kernel lacks nf_tables (or nft_masq, nft_chain_nat, the inet family): " +
	"load the modules, or use Linux 5.4 or newer with CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT and CONFIG_NFT_MASQ")

// ErrUnstable is what Read returns when other programs change the rules of the
// namespace, in whatever table, faster than they can be read.
var ErrUnstable = errors.New("the rules kept changing while they were read: it is tried again at the next sync")

// task is what was being done when the kernel gave an error.
type task struct {
	doing string
	// lacks are the errors that in this case come from a kernel that lacks
	// something: no netlink for netfilter, nobody there who answers for
	// nf_tables, no inet family, no such type of chain, no such expression.
	lacks []error
}

func open() task {
	return task{"open a netlink socket to nf_tables", []error{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT}}
}

func askGeneration() task {
	return task{"ask nf_tables for its generation", []error{unix.EINVAL, unix.EOPNOTSUPP}}
}

func read() task { return task{doing: "read table inet " + TableName} }

// change is the task of applying the operations. A rebuild refers to nothing
// that it did not make before, so what is not found can only be the kernel's;
// where elements are changed, it is a table that went away meanwhile.
func change(ops []Op) task {
	t := task{doing: "change table inet " + TableName}
	if _, rebuild := ops[0].(Rebuild); rebuild {
		t.lacks = []error{unix.ENOENT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP}
	}
	return t
}

// failed says what an error of the kernel means for the one who reads it.
func (t task) failed(err error) error {
	is := func(errno error) bool { return errors.Is(err, errno) }
	switch {
	case is(unix.EPERM):
		return fmt.Errorf("%s: %w: CAP_NET_ADMIN is needed", t.doing, err)
	case is(unix.EMSGSIZE):
		return fmt.Errorf("%s: %w: raise net.core.wmem_max, the transaction has to fit into it", t.doing, err)
	case slices.ContainsFunc(t.lacks, is):
		return fmt.Errorf("%s: %w (%w)", t.doing, ErrUnsupported, err)
	}
	return fmt.Errorf("%s: %w", t.doing, err)
}
