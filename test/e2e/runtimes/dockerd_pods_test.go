package runtimes

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// mended is how long it may take until the pods behind rules of others talk
// again.
const mended = 2 * time.Second

// talkers are two pods, on two hosts that run overlayd.
type talkers struct {
	t     *testing.T
	hosts []*lab.Host
	pods  []*lab.Pod
}

// newTalkers makes the hosts; they run nothing yet.
func newTalkers(t *testing.T) *talkers {
	t.Helper()
	programs := os.Getenv(buildEnv)
	l, err := lab.New(lab.Config{
		Dir: t.TempDir(), MTU: 1500,
		Segments:    []netip.Prefix{netip.MustParsePrefix("192.168.77.254/24")},
		PodNetworks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd44::/48")},
		Daemon:      filepath.Join(programs, "overlayd"), Plugin: filepath.Join(programs, "overlay-cni"),
		// Nothing is mended because some time has passed.
		DaemonArgs: []string{"--resync", "1h"},
	})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	p := &talkers{t: t}
	for _, name := range []string{"host-a", "host-b"} {
		h, err := l.AddHost(name)
		check(t, err)
		p.hosts = append(p.hosts, h)
	}
	check(t, l.Register(p.hosts...))
	return p
}

// start starts overlayd and adds a pod, on each host.
func (p *talkers) start(ctx context.Context) {
	p.t.Helper()
	for _, h := range p.hosts {
		_, err := h.StartDaemon(ctx)
		check(p.t, err)
		pod, err := h.AddPod(ctx, lab.PodSpec{Name: "pod"})
		check(p.t, err)
		p.pods = append(p.pods, pod)
	}
}

// talk begins a stream each way and of each family.
func (p *talkers) talk(ctx context.Context) (streams []*probe.Stream) {
	p.t.Helper()
	for i, from := range p.pods {
		for _, address := range p.pods[1-i].Addresses {
			echo, err := probe.ServeEcho(p.pods[1-i].Netns(), netip.AddrPortFrom(address, 0))
			check(p.t, err)
			p.t.Cleanup(func() { check(p.t, echo.Close()) })
			check(p.t, probe.Eventually(ctx, func(ctx context.Context) error {
				_, err := probe.UDP(ctx, from.Netns(), echo.Addr)
				return err
			}))
			s, err := probe.StartStream(from.Netns(), echo.Addr)
			check(p.t, err)
			p.t.Cleanup(func() { s.Stop() })
			streams = append(streams, s)
		}
	}
	return streams
}

// goOn returns when each stream has had answers.
func (p *talkers) goOn(ctx context.Context, streams []*probe.Stream) {
	p.t.Helper()
	const some = 100
	for _, s := range streams {
		check(p.t, s.Answered(ctx, some))
	}
}

// end fails the test if a stream was silent for longer than limit; 0: if it lost
// anything.
func (p *talkers) end(streams []*probe.Stream, limit time.Duration) {
	p.t.Helper()
	for _, s := range streams {
		c := s.Stop()
		p.t.Logf("%s; the longest pause was %s", c, c.Gap)
		if c.Gap > limit && limit > 0 || c.Lost > 0 && limit == 0 {
			p.t.Errorf("%s; the longest pause was %s, and may be %s", c, c.Gap, limit)
		}
	}
}

// TestPodsTalkBesideDockerd starts and stops the real dockerd on a host while its
// pods talk to those of another one.
func TestPodsTalkBesideDockerd(t *testing.T) {
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind+", overlayd comes first", func(t *testing.T) {
			p, ctx := newTalkers(t), inTime(t)
			p.start(ctx)
			streams := p.talk(ctx)
			docker := dockerOn(t, p.hosts[0].Netns(), kind)
			docker.hidden = true
			for range 2 {
				end := docker.start(t)
				p.goOn(ctx, streams)
				docker.check(t)
				end()
				p.goOn(ctx, streams)
			}
			// Where there was no table "filter", the daemon's rules come after
			// dockerd's policy.
			p.end(streams, mended)
		})
		t.Run(kind+", dockerd comes first", func(t *testing.T) {
			p, ctx := newTalkers(t), inTime(t)
			docker := dockerOn(t, p.hosts[0].Netns(), kind)
			end := docker.start(t) // on a host that does not forward yet
			p.start(ctx)
			streams := p.talk(ctx)
			docker.check(t)
			end()
			p.goOn(ctx, streams)
			docker.start(t)
			p.goOn(ctx, streams)
			docker.check(t)
			p.end(streams, 0)
		})
	}
}

func inTime(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}
