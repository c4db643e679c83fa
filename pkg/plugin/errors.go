package plugin

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// Error codes of our own. The specification leaves those from 100 on to
// plugins.
const (
	CodeNoAddress       uint = 100 // every address of a range set is taken
	CodeIfNameTaken     uint = 101 // the pod has an interface of that name
	CodeUnmanagedDevice uint = 102 // the bridge's name is another device's
	CodeBridgeFull      uint = 103 // the bridge has no port left
	CodeCheckFailed     uint = 104 // CHECK found differences
	CodeAddressTaken    uint = 105 // the address asked for is another pod's
	CodeNotInRange      uint = 106 // the address asked for can't be given here
	CodePortTaken       uint = 107 // the host port is another pod's
)

var codes = []struct {
	err  error
	code uint
}{
	{ipam.ErrExhausted, CodeNoAddress},
	{ipam.ErrTaken, CodeAddressTaken},
	{ipam.ErrNotInRange, CodeNotInRange},
	{hostport.ErrTaken, CodePortTaken},
	{veth.ErrIfNameTaken, CodeIfNameTaken},
	{bridge.ErrUnmanaged, CodeUnmanagedDevice},
	{veth.ErrBridgeFull, CodeBridgeFull},
	{attachment.ErrBusy, types.ErrTryAgainLater},
}

// toCNI returns an error in the specification's form, with its code.
func toCNI(err error) *types.Error {
	var done *types.Error
	if errors.As(err, &done) {
		return done
	}
	if full := new(fs.PathError); errors.As(err, &full) && (errors.Is(full.Err, unix.ENOSPC) || errors.Is(full.Err, unix.EDQUOT)) {
		return types.NewError(types.ErrTryAgainLater, err.Error(),
			fmt.Sprintf("the file system of %s is full: free pages or inodes there, see df and df -i", filepath.Dir(full.Path)))
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return types.NewError(c.code, err.Error(), "")
		}
	}
	return types.NewError(types.ErrInternal, err.Error(), "")
}
