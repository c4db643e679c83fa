package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// addressing is where addresses of a family come from.
type addressing struct {
	link    netip.Prefix // of the link between the two hosts, which have .1 and .2
	pods    netip.Prefix // of all pods
	subnets [2]netip.Prefix
	mtu     int // of pods: what VXLAN leaves of linkMTU
	// For rules as flannel has them.
	multicast, iptablesRestore string
}

var families = map[string]addressing{
	"ipv4": {
		link: netip.MustParsePrefix("192.168.78.0/24"), pods: netip.MustParsePrefix("10.244.0.0/16"),
		subnets: [2]netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("10.244.2.0/24")},
		mtu:     1450, multicast: "224.0.0.0/4", iptablesRestore: "iptables-restore",
	},
	"ipv6": {
		link: netip.MustParsePrefix("fd78::/64"), pods: netip.MustParsePrefix("fd44::/48"),
		subnets: [2]netip.Prefix{netip.MustParsePrefix("fd44:0:0:1::/64"), netip.MustParsePrefix("fd44:0:0:2::/64")},
		mtu:     1430, multicast: "ff00::/8", iptablesRestore: "ip6tables-restore",
	},
}

const (
	linkName = "link0"
	linkMTU  = 1500
)

// stage is the two hosts of a set, joined by one veth pair, as two machines by a cable.
type stage struct {
	addressing
	lab   *lab.Lab
	hosts [2]*lab.Host
	pods  []*sandbox.Netns // that were made by hand
}

// newStage makes hosts whose overlayd, if they have one, is in the folder bin.
func newStage(o options, set, bin string, daemonArgs ...string) (*stage, error) {
	dir, err := os.MkdirTemp(runDir, "bench-path-")
	if err != nil {
		return nil, err
	}
	c := lab.Config{Dir: dir, Prefix: prefix(set), MTU: linkMTU, DaemonArgs: daemonArgs}
	if c.Daemon, err = program(bin, "overlayd"); err != nil {
		return nil, err
	}
	if c.Plugin, err = program(bin, "overlay-cni"); err != nil {
		return nil, err
	}
	l, err := lab.New(c)
	if err != nil {
		return nil, err
	}
	s := &stage{addressing: families[o.family], lab: l}
	if err := s.setUp(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// runDir is a tmpfs of the sandbox, and so is where the programs' state belongs.
const runDir = "/run"

// prefix begins the names of a set's namespaces.
func prefix(set string) string {
	return strings.NewReplacer(" ", "", "'", "", "/", "").Replace(set) + "-"
}

func (s *stage) setUp() (err error) {
	for i, name := range hostNames {
		if s.hosts[i], err = s.lab.AddHost(name); err != nil {
			return err
		}
		if err := s.hosts[i].Netns().Do(forgetSoon); err != nil {
			return err
		}
	}
	return s.connect()
}

var hostNames = [2]string{"host-a", "host-b"}

// address is a host's on the link.
func (s *stage) address(host int) netip.Addr {
	a := s.link.Addr()
	for range host + 1 {
		a = a.Next()
	}
	return a
}

// hostPath leads from one host to the other.
func (s *stage) hostPath() path {
	return path{client: s.hosts[0].Netns(), server: s.hosts[1].Netns(), addr: s.address(1)}
}

// Close ends what the set runs, and its namespaces.
func (s *stage) Close() error {
	var errs []error
	for _, p := range s.pods {
		errs = append(errs, p.Delete())
	}
	return errors.Join(append(errs, s.lab.Close())...)
}

// forgetSoon lets conntrack forget closed connections soon, in the namespace of the
// calling thread: a minute of connect/request/response would fill the table, which all namespaces of
// a machine share, and the kernel would drop packets.
func forgetSoon() error {
	const file = "net/netfilter/nf_conntrack_tcp_timeout_time_wait"
	if _, err := os.Stat(filepath.Join("/proc/sys", file)); errors.Is(err, os.ErrNotExist) {
		return nil // no conntrack, no table
	}
	_, err := sysctl.Sync([]sysctl.Parameter{{Path: file, Value: "5"}})
	return err
}

// register tells the product's daemons of both hosts.
func (s *stage) register() error {
	var text strings.Builder
	text.WriteString("nodes:\n")
	for i, name := range hostNames {
		fmt.Fprintf(&text, "- {name: %s, addresses: [%q], podSubnets: [%q]}\n", name, s.address(i), s.subnets[i])
	}
	return s.lab.WriteRegistry([]byte(text.String()))
}
