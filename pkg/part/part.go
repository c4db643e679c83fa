// Package part gives one shape to everything that the daemon keeps on a host:
// the bridge, the tunnel, the firewall and so on. Rounds, uninstall and the
// status are loops over one list of parts.
//
// Invariant: what a part does follows from its argument and from what is on the
// host, never from what it did before. So every call may be repeated, and may
// follow a crash.
package part

import "context"

// Part is one thing on a host. D is the desired state of the whole host, of which
// the part uses its own piece.
type Part[D any] struct {
	// Name is the part's name in logs, errors and the status.
	Name string
	// Round names the loop of the daemon that syncs the part.
	Round string
	// Needs names parts that come earlier in the list. A round in which one of
	// them failed leaves this part as it is.
	Needs []string
	// Minor reports whether this host's own network works in spite of an error of
	// Sync. Nil: no error is minor.
	Minor func(error) bool
	// Sync brings the part into the desired state. It returns its changes, even
	// together with an error. Nil: Sync has nothing to do.
	Sync func(want D) (changes []string, err error)
	// Remove removes the part from the host. It returns the name of each thing that it
	// removed, even together with an error. If nothing is there, Remove succeeds. It
	// uses only names and paths of the desired state. Nil: the part stays.
	Remove func(was D) (removed []string, err error)
	// ForceResync makes the next Sync read everything. Nil: each Sync reads everything.
	ForceResync func()
	// Notes says what the last Sync saw and left alone, though it may matter. Nil:
	// nothing.
	Notes func() []string
	// Watch calls changed when somebody else changed the part, until ctx ends. Nil:
	// package monitor or the resync notices changes.
	Watch func(ctx context.Context, changed func()) error
}
