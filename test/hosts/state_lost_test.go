package hosts

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// losses of the run directory's state, or of parts of it.
var stateLosses = map[string]func(runDir string) error{
	"the run directory is deleted":        removeAll,
	"the run directory is moved away":     func(dir string) error { return os.Rename(dir, dir+"-moved") },
	"the reservations are deleted":        removes("addresses"),
	"each reservation is deleted":         func(dir string) error { return removeAllOf(filepath.Join(dir, "addresses")) },
	"the attachments are deleted":         removes("attachments"),
	"the attachments are moved away":      func(dir string) error { return os.Rename(filepath.Join(dir, "attachments"), dir+"-moved") },
	"each attachment is deleted":          func(dir string) error { return removeAllOf(filepath.Join(dir, "attachments")) },
	"all but what is published is gone":   removes("attachments", "addresses", "cursors"),
	"records and published state is gone": removes("attachments", nodestate.FileName),
}

// removeAll removes a directory, into which a daemon may write meanwhile.
func removeAll(dir string) error {
	for {
		if err := os.RemoveAll(dir); !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
}

func removes(names ...string) func(string) error {
	return func(dir string) error {
		var errs []error
		for _, n := range names {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, n)))
		}
		return errors.Join(errs...)
	}
}

func removeAllOf(dir string) error {
	files, err := os.ReadDir(dir)
	errs := []error{err}
	for _, f := range files {
		errs = append(errs, os.Remove(filepath.Join(dir, f.Name())))
	}
	return errors.Join(errs...)
}

// Somebody removes state while pods run: no new pod gets an address that a running
// pod has, their host ports stay open, /readyz tells, and once the pods are deleted
// nothing of them is left.
func TestStateRemovedWhilePodsRun(t *testing.T) {
	t.Parallel()
	for name, lose := range stateLosses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachMode(t, func(t *testing.T, m mode) {
				f, ctx := newFleet(t, 1, m.set, withHealth), withPatience(t)
				h := f.hosts[0]
				nothing := f.attached(h)
				web := f.webPod(ctx, h, "web")
				old := []*lab.Pod{f.pods[0], web, f.addPod(ctx, h, "second")}
				ports := (&pluginHost{host: h}).portLines(t)
				f.must(lose(h.RunDir()))
				taken := addressesOf(old)
				var fresh []*lab.Pod
				for i := range 6 {
					fresh = append(fresh, f.addPod(ctx, h, fmt.Sprint("new", i)))
				}
				for _, p := range fresh {
					for _, a := range p.Addresses {
						if slices.Contains(taken, a) {
							t.Errorf("pod %s got %s, which a running pod has", p.Name, a)
						}
						taken = append(taken, a)
					}
				}
				want := "Recreate the pods"
				if strings.Contains(name, "eservation") {
					want = "pods: ok\n"
					f.looked(ctx, h)
				}
				f.eventually(ctx, func(ctx context.Context) error { return says(ctx, h, "/readyz", http.StatusOK, want) })
				if after := (&pluginHost{host: h}).portLines(t); !slices.Equal(after, ports) {
					t.Errorf("host ports are\n%v\nbefore\n%v", after, ports)
				}
				for _, p := range slices.Concat(old, fresh) {
					f.pingAll(ctx, h.Netns(), p.Addresses)
				}
				for _, p := range slices.Concat(old[1:], fresh) {
					f.must(p.Delete(ctx))
				}
				if reserved, err := os.ReadDir(filepath.Join(h.RunDir(), "addresses")); err != nil || len(reserved) != len(h.Subnets()) {
					t.Errorf("left are the reservations %v, %v", reserved, err)
				}
				f.must(f.pods[0].Delete(ctx))
				f.looked(ctx, h)
				left := f.attached(h)
				left = slices.DeleteFunc(left, func(l string) bool { return slices.Contains(nothing, l) })
				if len(left) > 0 {
					t.Errorf("left are %v", left)
				}
			})
		})
	}
}

func addressesOf(pods []*lab.Pod) []netip.Addr {
	var all []netip.Addr
	for _, p := range pods {
		all = append(all, p.Addresses...)
	}
	return all
}
