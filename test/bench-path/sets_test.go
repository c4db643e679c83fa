package main

import (
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// devices are the tunnels of sets that have one.
var devices = map[string]string{"plain VXLAN": "vxlan0", "flannel's set-up": "flannel.1", "overlay-cni": "overlay0", "again": "overlay0"}

// Each set carries each load at each place, in each family. Figures are not judged.
func TestEverySetCarriesEveryLoad(t *testing.T) {
	for family := range families {
		t.Run(family, func(t *testing.T) {
			o := options{
				dir: programs, rounds: 2, duration: 5 * time.Millisecond, streams: 3, family: family,
				extra: []string{"again=" + programs + ",--resync=30s"},
			}
			sets, err := makeSets(o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := closeSets(sets); err != nil {
					t.Error(err)
				}
			})
			if len(sets) != len(ownMakers)+1 {
				t.Errorf("%d sets, not all of them", len(sets))
			}
			rows := rowsOf(sets)
			play(o, rows, io.Discard)
			for _, r := range rows {
				checkRow(t, o, r)
			}
			for _, s := range sets {
				checkTunnel(t, s)
			}
		})
	}
}

func checkRow(t *testing.T, o options, r *row) {
	t.Helper()
	if r.Note != "" {
		t.Errorf("%s, %s: %s", r.Set, r.Place, r.Note)
		return
	}
	for _, l := range loads(o.streams) {
		c := l.columns[0]
		// A busy machine may lose a datagram, and so a turn.
		if v := r.Values[c.Name]; len(v) == 0 || v[0] <= 0 {
			t.Errorf("%s, %s: %s is %v; %d turns failed: %s", r.Set, r.Place, c.Name, v, r.Failed, r.Error)
		}
	}
}

// checkTunnel looks whether the set's packets between hosts went through its tunnel.
func checkTunnel(t *testing.T, s *set) {
	t.Helper()
	device, tunnelled := devices[s.name]
	if !tunnelled {
		return
	}
	for _, h := range s.Closer.(*stage).hosts {
		link, err := h.Handle().LinkByName(device)
		if err != nil {
			t.Errorf("%s, %s: %v", s.name, h.Name, err)
			continue
		}
		// A request by TCP alone takes three from each side.
		if sent := link.Attrs().Statistics.TxPackets; sent < 10 {
			t.Errorf("%s: %s of %s sent %d packets: pods talk by another way", s.name, device, h.Name, sent)
		}
	}
}

// A set without traffic says so instead of giving figures.
func TestSetWithoutTrafficIsNamed(t *testing.T) {
	o := options{dir: programs, duration: time.Millisecond, streams: 1, family: "ipv4"}
	stage, paths, err := plain(o, "broken")
	if err != nil {
		t.Fatal(err)
	}
	s := &set{name: "broken", paths: paths, Closer: stage}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	link, err := stage.hosts[1].Handle().LinkByName("vxlan0")
	if err == nil {
		err = stage.hosts[1].Handle().LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	err = s.prove(time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "pods on "+twoHosts) || strings.Contains(err.Error(), "pods on "+oneHost) {
		t.Errorf("without a tunnel: %v", err)
	}
}

func TestMissingProgramIsNamed(t *testing.T) {
	sets, err := makeSets(options{dir: t.TempDir(), streams: 1, family: "ipv4", only: []string{"overlay-cni"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closeSets(sets); err != nil {
			t.Error(err)
		}
	})
	if len(sets) != 2 || sets[0].note != "" || !strings.Contains(sets[1].note, "make bench-path builds overlayd") {
		t.Errorf("got %+v", sets)
	}
}

func TestFlannelTables(t *testing.T) {
	text := flannelTables(netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.244.1.0/24"), "224.0.0.0/4")
	for _, want := range []string{
		`-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN`,
		`-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully`,
		`-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
	if strings.ContainsAny(text, "{}") {
		t.Errorf("a name was not replaced in\n%s", text)
	}
}
