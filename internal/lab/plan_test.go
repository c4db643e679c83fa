package lab

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestPlanHost(t *testing.T) {
	prefixes := func(ps ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, p := range ps {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	dual := Config{
		Segments:    prefixes("192.168.77.254/24", "fd00:77::ffff/64"),
		PodNetworks: prefixes("10.244.0.0/16", "fd00:10:244::/48"),
	}
	tests := []struct {
		name   string
		config Config
		number int
		want   string
	}{
		{"first", dual, 1, "[192.168.77.1/24 fd00:77::1/64] [10.244.1.0/24 fd00:10:244:1::/64]"},
		{"another", dual, 20, "[192.168.77.20/24 fd00:77::14/64] [10.244.20.0/24 fd00:10:244:14::/64]"},
		{"carry", dual, 256, "[192.168.78.0/24 fd00:77::100/64] [10.245.0.0/24 fd00:10:244:100::/64]"},
		{"one family", Config{Segments: prefixes("10.1.0.1/16"), PodNetworks: prefixes("10.244.0.0/16")}, 2, "[10.1.0.2/16] [10.244.2.0/24]"},
		{"no pods", Config{Segments: prefixes("10.1.0.1/16")}, 2, "[10.1.0.2/16] []"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := planHost(tt.config, tt.number)
			if got := fmt.Sprint(p.underlay, p.subnets); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
