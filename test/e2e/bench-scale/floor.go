package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// device is overlayd's.
const device = "overlay0"

// floor has the kernel take the very entries that overlayd made, from lists in
// files: ip and bridge do nothing but to ask for one after the other.
func (b *bencher) floor(ctx context.Context, _ setting, subject *subject, r *result) error {
	if r.Program != "overlayd" {
		return nil
	}
	b.say("the kernel alone, %d peers", r.Peers)
	lists, err := listsOf(subject)
	if err != nil {
		return err
	}
	for i := range b.starts {
		took, cpu, err := replay(ctx, fmt.Sprintf("floor-%d", i), lists)
		if err != nil {
			return err
		}
		r.Kernel = append(r.Kernel, milliseconds(took))
		r.KernelCPU = append(r.KernelCPU, milliseconds(cpu))
	}
	return nil
}

// list is what a program reads.
type list struct{ program, text string }

// listsOf reads what is in the kernel of a host.
func listsOf(subject *subject) ([]list, error) {
	var conn *rtnl.Conn
	err := subject.host.Netns().Do(func() (err error) {
		conn, err = rtnl.Open()
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	link, err := conn.Link(device)
	if err != nil {
		return nil, fmt.Errorf("find the device that overlayd made: %w", err)
	}
	var routes, neighbors, forwards strings.Builder
	err = errors.Join(
		conn.EachRoute(unix.AF_INET, link.Index, func(r rtnl.RouteEntry) {
			if r.Protocol != unix.RTPROT_KERNEL {
				fmt.Fprintf(&routes, "route add %s via %s dev %s onlink proto %d\n", r.Dst, r.Via, device, r.Protocol)
			}
		}),
		conn.EachNeighbor(unix.AF_INET, link.Index, func(n rtnl.NeighborEntry) {
			if n.State&unix.NUD_PERMANENT != 0 { // else the kernel's own
				fmt.Fprintf(&neighbors, "neigh add %s lladdr %s dev %s nud permanent\n", n.IP, n.MAC, device)
			}
		}),
		conn.EachNeighbor(unix.AF_BRIDGE, link.Index, func(n rtnl.NeighborEntry) {
			fmt.Fprintf(&forwards, "fdb add %s dev %s dst %s self permanent\n", n.MAC, device, n.IP)
		}),
	)
	return []list{{"bridge", forwards.String()}, {"ip", neighbors.String()}, {"ip", routes.String()}}, err
}

// replay gives lists to the kernel of an empty namespace.
func replay(ctx context.Context, name string, lists []list) (took, cpu time.Duration, err error) {
	ns, err := sandbox.CreateNetns(name)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = ns.Delete() }()
	for _, args := range []string{
		"link add " + device + " mtu 1450 type vxlan id 1 dstport 4789 nolearning", "link set " + device + " up",
	} {
		if _, err := runIn(ctx, ns, "ip", strings.Fields(args)...); err != nil {
			return 0, 0, err
		}
	}
	for i, l := range lists {
		file := filepath.Join(work, fmt.Sprintf("list-%d", i))
		if err := os.WriteFile(file, []byte(l.text), 0o644); err != nil {
			return 0, 0, err
		}
		began := time.Now()
		used, err := runIn(ctx, ns, l.program, "-batch", file)
		if err != nil {
			return 0, 0, err
		}
		took, cpu = took+time.Since(began), cpu+used
	}
	return took, cpu, nil
}

// runIn runs a program to its end and returns the CPU time it had.
func runIn(ctx context.Context, ns *sandbox.Netns, name string, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := ns.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out.String())
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}
