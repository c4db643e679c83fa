package plugin

import (
	"errors"

	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/guard"
	"github.com/overlay-cni/overlay-cni/pkg/pods"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// guard keeps the pod from sending what is not its own. It is called before the port
// exists, so no frame passes unchecked. It returns the socket, also with an error,
// which the caller closes; nil if the pod is not guarded.
//
// On a kernel that can't guard pods the daemon reports that, and pods still start.
func (c *call) guard(a *attachment.Attachment, r attachment.Record, n settings, p veth.Port) (*nft.Conn, error) {
	if !r.Guarded || n.unguarded {
		return nil, nil
	}
	rules, err := nft.Dial()
	if errors.Is(err, nft.ErrUnsupported) {
		return nil, unguardable(a, r, guard.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	pod := guard.Pod{Port: p.HostName, MAC: p.MAC, Bridge: c.kernel.MAC(n.bridge.Name)}
	for _, a := range p.Addresses {
		pod.Addresses = append(pod.Addresses, a.Addr)
	}
	return rules, unguardable(a, r, guard.On(rules).Add(pod))
}

// unguardable records that the kernel can't guard the pod, if err says so. To read the
// table wouldn't tell: it is just not there.
func unguardable(a *attachment.Attachment, r attachment.Record, err error) error {
	if !errors.Is(err, guard.ErrUnsupported) {
		return err
	}
	r.Guarded, r.Unguardable = false, true
	return a.Write(r)
}

// checkGuard compares the guard with the record.
func (c *call) checkGuard(r attachment.Record, n settings) ([]string, error) {
	pod, guarded := pods.Guarded(r)
	if !guarded || n.unguarded {
		return nil, nil
	}
	rules, err := nft.Dial()
	if errors.Is(err, nft.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer rules.Close()
	return guard.On(rules).Check(pod)
}
