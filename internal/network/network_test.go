package network

import "testing"

func TestStateDir(t *testing.T) {
	for name, want := range map[Name]string{
		Default: "/run/overlay-cni", // where the first release put everything
		"blue":  "/run/overlay-cni/networks/blue",
	} {
		if got := name.StateDir("/run/overlay-cni"); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestTunnelAlias(t *testing.T) {
	for name, want := range map[Name]string{
		Default: "overlay-cni", // devices of earlier releases have it
		"blue":  "overlay-cni/blue",
	} {
		if got := name.TunnelAlias(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
