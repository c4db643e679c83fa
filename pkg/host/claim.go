package host

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// ErrClaimed says that a daemon runs on this host.
var ErrClaimed = errors.New("another overlayd runs on this host (in this network namespace)")

// Claim makes the caller the only one that changes the network namespace of the
// calling thread, until the caller closes the returned listener. Two daemons would
// undo each other's changes for ever. The error is ErrClaimed while another process
// has the claim. The claim is an abstract socket, which belongs to the network
// namespace and ends with its process (unix(7)).
func Claim() (net.Listener, error) {
	claim, err := net.Listen("unix", "@overlay-cni/overlayd")
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, ErrClaimed
	}
	if err != nil {
		return nil, fmt.Errorf("claim this host: %w", err)
	}
	return claim, nil
}
