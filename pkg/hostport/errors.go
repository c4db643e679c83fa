package hostport

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// ErrTaken says that another pod has a host port; the error is a *TakenError,
// too.
var ErrTaken = errors.New("host port is taken")

// ErrUnsupported says that the kernel lacks nf_tables or a part of it.
var ErrUnsupported = nft.ErrUnsupported

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
