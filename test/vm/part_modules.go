package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// withhold keeps these modules from being loaded, as if the kernel did not have
// them. It makes modules of an earlier call available again.
func (n *node) withhold(ctx context.Context, modules ...string) error {
	var text strings.Builder
	for _, m := range modules {
		fmt.Fprintf(&text, "install %s /bin/busybox false\n", m)
	}
	return n.WriteFile(ctx, "/etc/modprobe.d/withheld.conf", text.String())
}

// loaded returns the modules that the kernel has loaded.
func (n *node) loaded(ctx context.Context) (map[string]bool, error) {
	text, err := n.Run(ctx, "busybox", "cat", "/proc/modules")
	loaded := map[string]bool{}
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(line, " ")
		loaded[name] = true
	}
	return loaded, err
}

// lacks fails if the kernel has one of the modules.
func (n *node) lacks(ctx context.Context, modules ...string) error {
	loaded, err := n.loaded(ctx)
	for _, m := range modules {
		if loaded[m] {
			err = errors.Join(err, fmt.Errorf("%s has loaded module %s", n.name, m))
		}
	}
	return err
}

// has fails if the kernel has not loaded all of the modules.
func (n *node) has(ctx context.Context, modules ...string) error {
	loaded, err := n.loaded(ctx)
	for _, m := range modules {
		if !loaded[m] {
			err = errors.Join(err, fmt.Errorf("%s has not loaded module %s", n.name, m))
		}
	}
	return err
}

// The modules that overlayd needs, and those that only pods need.
var (
	daemonModules = []string{"vxlan", "bridge", "nf_tables", "nft_chain_nat", "nft_masq", "nf_nat", "nft_ct", "nft_fib_inet"}
	pluginModules = []string{"veth", "sch_tbf", "ifb", "br_netfilter"}
)

// lack is a missing module and the text by which an error must name it.
type lack struct{ module, says string }

// modules checks kernels that lack modules. Only the kernel itself loads modules,
// on demand.
func (s *suite) modules() error {
	n := s.cluster.nodes[1]
	if err := s.must("none of our modules is loaded at boot", func(ctx context.Context) (string, error) {
		if err := s.cluster.register(ctx, s.cluster.nodes[:2], anyFamily); err != nil {
			return "", err
		}
		return "", errors.Join(n.lacks(ctx, daemonModules...), n.lacks(ctx, pluginModules...))
	}); err != nil {
		return err
	}
	if err := s.daemonWithout(n, []lack{
		{"bridge", "load the module bridge"},
		{"vxlan", "load the module vxlan"},
		{"nf_tables", "ask nf_tables for its generation: the kernel lacks nf_tables"},
		{"nft_fib_inet", "change table inet overlay-cni: the kernel lacks nf_tables or a part of it"},
		{"nft_masq", "change table inet overlay-cni: the kernel lacks nf_tables or a part of it"},
	}); err != nil {
		return err
	}
	s.podWithout(n, lack{"veth", "load the module veth"}, nil)
	s.podWithout(n, lack{"sch_tbf", "sch_tbf"}, capabilities{"bandwidth": ingressLimit})
	s.podWithout(n, lack{"ifb", "ifb"}, capabilities{"bandwidth": egressLimit})
	s.check("a pod comes and goes without modprobe", func(ctx context.Context) (string, error) {
		return "", n.withoutModprobe(ctx, func() error {
			p, err := n.addPod(ctx, "quiet", nil)
			if err != nil {
				return err
			}
			return errors.Join(p.remove(ctx), n.empty(ctx))
		})
	})
	return nil
}

// withoutModprobe fails if the kernel starts modprobe while do runs, as it does
// when an ioctl names a missing interface.
func (n *node) withoutModprobe(ctx context.Context, do func() error) error {
	const usual, watched, log = "/sbin/modprobe", "/run/modprobe", "/run/modprobe.log"
	set := func(path string) error {
		_, err := n.Run(ctx, "busybox", "sh", "-c", "echo "+path+" > /proc/sys/kernel/modprobe && touch "+log+" && chmod 755 "+path)
		return err
	}
	script := "#!/bin/busybox sh\necho \"$@\" >> " + log + "\nexec " + usual + " \"$@\"\n"
	err := errors.Join(n.WriteFile(ctx, watched, script), set(watched))
	if err != nil {
		return err
	}
	err = errors.Join(do(), set(usual))
	asked, readErr := n.Run(ctx, "busybox", "cat", log)
	if asked != "" {
		err = errors.Join(err, fmt.Errorf("the kernel started modprobe: %s", strings.TrimSpace(asked)))
	}
	return errors.Join(err, readErr)
}

// daemonWithout starts overlayd on a machine without modules, and then makes them
// available one by one.
func (s *suite) daemonWithout(n *node, lacks []lack) error {
	var withheld []string
	for _, l := range lacks {
		withheld = append(withheld, l.module)
	}
	if err := s.must("overlayd starts without them", func(ctx context.Context) (string, error) {
		return "", errors.Join(n.withhold(ctx, withheld...), n.launch(ctx))
	}); err != nil {
		return err
	}
	for i, l := range lacks {
		s.check("overlayd names "+l.module, func(ctx context.Context) (string, error) {
			return "", errors.Join(n.withhold(ctx, withheld[i:]...), n.complains(ctx, l.says))
		})
	}
	return s.must("overlayd goes on once they are there", func(ctx context.Context) (string, error) {
		if err := errors.Join(n.withhold(ctx), n.awaitStatus(ctx, http.StatusOK, "")); err != nil {
			return "", err
		}
		return "", n.has(ctx, daemonModules...)
	})
}

// complains waits until overlayd reports itself down, with a text that contains
// says.
func (n *node) complains(ctx context.Context, says string) error {
	return n.awaitStatus(ctx, http.StatusServiceUnavailable, says)
}

// podWithout makes a pod on a machine without a module. The failed pod must leave
// nothing, and with the module a pod must work.
func (s *suite) podWithout(n *node, l lack, c capabilities) {
	s.check("overlay-cni names "+l.module+", and goes on with it", func(ctx context.Context) (string, error) {
		if err := n.withhold(ctx, l.module); err != nil {
			return "", err
		}
		without, err := n.addPod(ctx, "without-"+l.module, c)
		if err := failsWith(l.says, err); err != nil {
			return "", err
		}
		if err := errors.Join(without.remove(ctx), n.empty(ctx), n.withhold(ctx)); err != nil {
			return "", err
		}
		with, err := n.addPod(ctx, "with-"+l.module, c)
		if err != nil {
			return "", err
		}
		return "", errors.Join(n.has(ctx, l.module), with.remove(ctx), n.empty(ctx))
	})
}
