package plugin

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"
)

// status tells whether an ADD would find what it needs: the daemon's
// publication and a free address. The specification has a code for "no".
func (p Plugin) status(in *invocation) error {
	net, err := in.conf.settings(0)
	if err != nil {
		return notAvailable(err)
	}
	return notAvailable(in.conf.store().Addresses().CheckFree(net.sets))
}

// notAvailable gives errors that may pass by themselves the code for it, and
// leaves the others, such as a wrong configuration, as they are.
func notAvailable(err error) error {
	var known *types.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &known):
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	case known.Code == types.ErrTryAgainLater:
		return types.NewError(types.ErrPluginNotAvailable, known.Msg, known.Details)
	}
	return err
}
