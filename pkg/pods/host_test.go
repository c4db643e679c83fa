package pods

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
)

func TestCutOff(t *testing.T) {
	entry := func(key, pod, bridge string, addresses ...string) attachment.Entry {
		e := attachment.Entry{Key: attachment.Key(key), Record: attachment.Record{Pod: pod, Bridge: bridge}}
		for _, a := range addresses {
			e.Record.Addresses = append(e.Record.Addresses, netip.MustParseAddr(a))
		}
		return e
	}
	spec := bridge.Spec{Name: "cni0", Gateways: []netip.Prefix{
		netip.MustParsePrefix("10.244.1.1/24"), netip.MustParsePrefix("fd00:1::1/64"),
	}}
	const text = "pod addresses are in none of this node's subnets, so nothing reaches these pods: delete the pods, so that they are recreated: "
	damaged := entry("damaged@eth0", "", "cni0", "10.9.9.9")
	damaged.Err = attachment.ErrDamaged
	for name, tt := range map[string]struct {
		entries []attachment.Entry
		want    string
	}{
		"none":                 {nil, ""},
		"within":               {[]attachment.Entry{entry("a@eth0", "shop/a", "cni0", "10.244.1.2", "fd00:1::2")}, ""},
		"of another network":   {[]attachment.Entry{entry("a@eth0", "shop/a", "other", "10.9.0.2")}, ""},
		"not to be read":       {[]attachment.Entry{damaged}, ""},
		"IPv4":                 {[]attachment.Entry{entry("a@eth0", "shop/a", "cni0", "10.244.2.2", "fd00:1::2")}, "1 " + text + "shop/a 10.244.2.2"},
		"IPv6, without a name": {[]attachment.Entry{entry("a@eth0", "", "cni0", "fd00:2::2")}, "1 " + text + "a@eth0 fd00:2::2"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := cutOff(tt.entries, spec); err != nil {
				got = fmt.Sprint(err)
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}
