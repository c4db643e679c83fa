package iptables

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// space is a network namespace of the test, in which programs run.
type space struct{ sandboxtest.Space }

func newSpace(t testing.TB) space {
	t.Helper()
	return space{sandboxtest.NewSpace(t)}
}

// run runs a program in the namespace and returns what it prints.
func (s space) run(args ...string) string {
	s.T.Helper()
	return s.runWith("", args...)
}

func (s space) runWith(stdin string, args ...string) string {
	s.T.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	must(s.T, s.NS.Start(cmd))
	if err := cmd.Wait(); err != nil {
		s.T.Fatalf("%s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.String()
}

// sync runs k in the namespace.
func (s space) sync(k *Kernel, want State) ([]string, error) {
	s.T.Helper()
	var changes []string
	var failure error
	s.In(func() error {
		changes, failure = k.Sync(want)
		return nil
	})
	return changes, failure
}

// mustSync lets a Sync do its work and wants a second one, by a door that
// remembers nothing, to find nothing to do.
func (s space) mustSync(k *Kernel, want State) []string {
	s.T.Helper()
	changes, err := s.sync(k, want)
	must(s.T, err)
	fresh := New()
	defer fresh.Close()
	again, err := s.sync(fresh, want)
	must(s.T, err)
	if len(again) > 0 {
		s.T.Errorf("a second Sync changed %q", again)
	}
	return changes
}

// variant is one of the programs that iptables can be, for one family.
type variant struct {
	family  family.Family
	program string // as iptables-nft
}

func (v variant) String() string { return v.program }

func variants() []variant {
	return []variant{
		{family.IPv4, "iptables-nft"}, {family.IPv6, "ip6tables-nft"}, {family.IPv4, "iptables-legacy"}, {family.IPv6, "ip6tables-legacy"},
	}
}

// eachVariant runs a test with a namespace for each.
func eachVariant(t *testing.T, test func(t *testing.T, v variant, s space)) {
	for _, v := range variants() {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			test(t, v, newSpace(t))
		})
	}
}

// restore has the variant's program carry out commands on a table. Tests run side by
// side, so the program waits for the lock of iptables-legacy, which is one for all
// namespaces.
func (s space) restore(v variant, table string, commands ...string) {
	s.T.Helper()
	s.runWith(fmt.Sprintf("*%s\n%s\nCOMMIT\n", table, strings.Join(commands, "\n")), v.program+"-restore", "--noflush", "--wait")
}

// list returns the table filter as the variant's program lists it.
func (s space) list(v variant) []string {
	s.T.Helper()
	return strings.Split(strings.TrimSpace(s.run(v.program, "--wait", "-t", "filter", "-S")), "\n")
}
