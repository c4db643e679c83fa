package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

const (
	forward4 = "net/ipv4/ip_forward"
	forward6 = "net/ipv6/conf/all/forwarding"
	ttl      = "net/ipv4/ip_default_ttl"
)

func TestSync(t *testing.T) {
	for _, tt := range []struct {
		name    string
		want    []Parameter
		changes []string
	}{
		{"nothing", nil, nil},
		{"IPv4", []Parameter{{forward4, "1"}}, []string{"sysctl net.ipv4.ip_forward from 0 to 1"}},
		{"IPv6", []Parameter{{forward6, "1"}}, []string{"sysctl net.ipv6.conf.all.forwarding from 0 to 1"}},
		{"both", []Parameter{{forward4, "1"}, {forward6, "1"}}, []string{
			"sysctl net.ipv4.ip_forward from 0 to 1", "sysctl net.ipv6.conf.all.forwarding from 0 to 1",
		}},
		{"one is right", []Parameter{{forward4, "0"}, {forward6, "1"}}, []string{"sysctl net.ipv6.conf.all.forwarding from 0 to 1"}},
		{"a number", []Parameter{{ttl, "32"}}, []string{"sysctl net.ipv4.ip_default_ttl from 64 to 32"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sandboxtest.Do(t, sandboxtest.NewNetns(t), func() error {
				changes, err := Sync(tt.want)
				if err != nil || !slices.Equal(changes, tt.changes) {
					return fmt.Errorf("changes %q, %w", changes, err)
				}
				for _, p := range tt.want {
					if have, err := Get(p.Path); err != nil || have != p.Value {
						return fmt.Errorf("%s is %q, %w", p.Path, have, err)
					}
				}
				if again, err := Sync(tt.want); len(again) > 0 || err != nil {
					return fmt.Errorf("a second time: changes %q, %w", again, err)
				}
				return nil
			})
		})
	}
}

// The parameters are the namespace's of the calling thread, and of no other.
func TestOtherNamespacesAreLeftAlone(t *testing.T) {
	one, other := sandboxtest.NewNetns(t), sandboxtest.NewNetns(t)
	sandboxtest.Do(t, one, func() error {
		_, err := Sync([]Parameter{{forward4, "1"}})
		return err
	})
	sandboxtest.Do(t, other, func() error {
		if have, err := Get(forward4); err != nil || have != "0" {
			return fmt.Errorf("forwarding is %q elsewhere, %w", have, err)
		}
		return nil
	})
}

func TestOneThatFailsDoesNotStopTheOthers(t *testing.T) {
	sandboxtest.Do(t, sandboxtest.NewNetns(t), func() error {
		changes, err := Sync([]Parameter{
			{"net/ipv4/no_such_thing", "1"}, {forward4, "yes"}, {forward6, "1"},
		})
		if !slices.Equal(changes, []string{"sysctl net.ipv6.conf.all.forwarding from 0 to 1"}) {
			return fmt.Errorf("changes %q", changes)
		}
		for _, want := range []string{
			"sysctl net.ipv4.no_such_thing has to be 1, but the kernel does not have it",
			`sysctl net.ipv4.ip_forward is "0" and has to be yes: set it on the host: `,
		} {
			if !strings.Contains(fmt.Sprint(err), want) {
				return fmt.Errorf("no word of %q in %w", want, err)
			}
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("callers can't tell what is missing: %w", err)
		}
		return nil
	})
}

func TestInterfaceNameWithADot(t *testing.T) {
	ns := sandboxtest.NewNetns(t)
	h, err := ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br.5"}}); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Do(t, ns, func() error {
		changes, err := Sync([]Parameter{{"net/ipv4/conf/br.5/forwarding", "1"}})
		if err != nil || !slices.Equal(changes, []string{"sysctl net.ipv4.conf.br/5.forwarding from 0 to 1"}) {
			return fmt.Errorf("changes %q, %w", changes, err)
		}
		return nil
	})
}
