package host

import "testing"

// A device that is deleted after its part was synced is no error of the sysctls: the
// next round makes it again.
func TestSysctlsOfADeviceThatIsGone(t *testing.T) {
	changes, err := Sysctls{Routers: []string{"no-such-device"}, Tunnel: "no-such-device"}.sync()
	if err != nil || len(changes) > 0 {
		t.Errorf("changed %v, %v", changes, err)
	}
}
