package vxlan

import (
	"context"
	"errors"
	"fmt"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// Keep makes the kernel's state the goal. It returns what it changed, also
// beside an error. What fails does not keep the rest from being tried; the error
// joins those of all. A device of somebody else is not touched (ErrNotOurs).
//
// It costs what changed: in the goal, and in the kernel by its own notifications.
// The device itself and its addresses are read each time, what is on it only
// where that can't be followed (see mirror), and after Distrust.
func (k *Kernel) Keep(g *Goal) (Changes, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := g.state.Device.Name
	if name == "" {
		return nil, errors.New("keep the vxlan device: the goal has none")
	}
	done, device, err := k.syncDevice(g.state)
	if device.Device.Index == 0 {
		return done, err
	}
	ops, unread := k.plan(g, device)
	if unread != nil {
		return done, errors.Join(err, unread)
	}
	entries, failed := k.apply(ops, device.Device.Index)
	if failed != nil && err == nil { // else they may fail for the device's sake
		err = fmt.Errorf("keep vxlan device %q: %w: %w", name, ErrPeers, failed)
	}
	return append(done, entries...), err
}

// Distrust has the next Keep read everything, as is due every so often, since
// nobody knows what the kernel doesn't tell.
func (k *Kernel) Distrust() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.distrust()
}

func (k *Kernel) distrust() {
	if k.mirror != nil {
		k.mirror.usable = false
	}
}

// plan leaves what it planned for marked as open, until the next time shows
// that it is done. Its operations are not yet in the mirror: they come in as
// notifications, like those of others.
func (k *Kernel) plan(g *Goal, device State) ([]Op, error) {
	changed := g.changed
	if k.goal != g {
		changed = keys{all: true}
	}
	_, _ = k.hear() // what can't be heard makes the mirror void
	if !k.follows(device.Device.Index) {
		if err := k.look(device); err != nil {
			return nil, err
		}
		changed = keys{all: true}
	}
	ops := k.mirror.plan(g.state, changed)
	k.mirror.expect(ops, g.state)
	k.goal, g.changed = g, keys{}
	return ops, nil
}

func (k *Kernel) follows(index int) bool {
	return k.mirror != nil && k.mirror.usable && k.mirror.base.Device.Index == index
}

// look reads everything and begins to follow it. What happens meanwhile is heard
// of at once. Where that can't be followed, what was read is planned for all the
// same, and another Keep asked for: whoever disturbs, and goes on, must not keep
// peers from being set.
func (k *Kernel) look(device State) error {
	_, _ = k.hear() // old news
	have, rivals, err := k.withEntries(device)
	if err != nil {
		return err
	}
	k.mirror = mirrorOf(have, rivals)
	if news, _ := k.hear(); news && !k.mirror.usable && k.tell != nil {
		k.tell()
	}
	return nil
}

// hear takes over all notifications that there are. After an error, which is
// news too, the mirror is void.
func (k *Kernel) hear() (news bool, err error) {
	err = k.notices.Drain(func(n rtnl.Notice) {
		if k.mirror != nil && k.mirror.take(n) {
			news = true
		}
	})
	if err != nil && k.mirror != nil {
		news = k.mirror.void()
	}
	return news, err
}

// Watch calls changed when something that Keep keeps is no longer as it left
// it, until ctx ends. What Keep itself does is no news. changed must not wait, nor
// call k.
func (k *Kernel) Watch(ctx context.Context, changed func()) error {
	k.setTell(changed)
	defer k.setTell(nil)
	k.notices.Resume()
	defer context.AfterFunc(ctx, k.notices.Interrupt)()
	for {
		err := k.notices.Wait()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		news, err := k.listen()
		if news {
			changed()
		}
		if err != nil {
			return err
		}
	}
}

func (k *Kernel) setTell(tell func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tell = tell
}

func (k *Kernel) listen() (news bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	news, err = k.hear()
	if errors.Is(err, rtnl.ErrLost) {
		err = nil // that is news, and no more
	}
	return news, err
}
