package plugin

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"
)

// status checks that an ADD would find what it needs: the state that the daemon
// publishes, and a free address. Its error has the specification's code.
func (p Plugin) status(in *invocation) error {
	net, err := in.conf.settings(0)
	if err != nil {
		return notAvailable(err)
	}
	return notAvailable(in.conf.store().Addresses().CheckFree(net.sets))
}

// notAvailable gives errors that may pass by themselves the code "not available".
// Other errors, such as a wrong configuration, keep theirs.
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
