package config

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func watch(t *testing.T, args ...string) *Live {
	t.Helper()
	flags := pflag.NewFlagSet("overlayd", pflag.ContinueOnError)
	loader := AddFlags(flags)
	loader.hostname = func() (string, error) { return "this-host", nil }
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	live, err := loader.Watch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := live.Close(); err != nil {
			t.Error(err)
		}
	})
	return live
}

func TestLiveFollowsItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("mtu: 1400\n")
	live := watch(t, "--config", path, "--vxlan-port", "8472")
	want := defaults()
	want.MTU, want.VXLAN.Port = 1400, 8472
	is := func(wantErr string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for {
			got, err := live.Get()
			diff, text := cmp.Diff(want, got, equalConfigs()), ""
			if err != nil {
				text = err.Error()
			}
			if diff == "" && text == wantErr {
				return
			}
			select {
			case <-live.Changed():
			case <-ctx.Done():
				t.Fatalf("error %q, want %q; configuration (-want +got):\n%s", text, wantErr, diff)
			}
		}
	}
	is("")
	write("vxlan: {vni: 7, port: 1}\nmasquerade: false\n")
	want.MTU, want.VXLAN.VNI, want.Masquerade = 0, 7, false // a flag still wins
	is("")
	write("mtu: 1\n")
	is(path + `:1:6: mtu: "1": expected 0 (from the underlay), or 576 to 65535`)
	write("runDir: /run/other\nlog: {level: debug}\n")
	is("runDir changed, which needs a restart of overlayd: restart it, or set runDir back\n" +
		"log changed, which needs a restart of overlayd: restart it, or set log back")
	write("mtu: 1300\n")
	want.MTU, want.VXLAN.VNI, want.Masquerade = 1300, 1, true
	is("")
}

func TestLiveWithoutAFile(t *testing.T) {
	live := watch(t, "--mtu", "1400")
	want := defaults()
	want.MTU = 1400
	got, err := live.Get()
	if diff := cmp.Diff(want, got, equalConfigs()); diff != "" || err != nil {
		t.Errorf("error %v, configuration (-want +got):\n%s", err, diff)
	}
}

// The file wins over the registry's settings for all hosts. The registry can't set
// what each host has to set for itself.
func TestLiveTakesWhatIsShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("mtu: 1300\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	live := watch(t, "--config", path)
	want := defaults()
	want.MTU, want.VXLAN.VNI = 1300, 9
	const mistake = `etcd:2:9: vxlan.vni: "0": expected a whole number from 1 to 16777215`
	for _, step := range []struct{ yaml, err string }{
		{"mtu: 1400\nvxlan: {vni: 9}\n", ""},
		{"vxlan:\n   vni: 0\n", mistake},
		{"vxlan: {vni: 9}\n", ""},
	} {
		shared := Shared{Name: "etcd", YAML: []byte(step.yaml)}
		live.Share(shared)
		got, err := live.Get()
		if diff := cmp.Diff(want, got, equalConfigs()); diff != "" || text(err) != step.err || text(shared.Check()) != step.err {
			t.Errorf("%q: error %v, configuration (-want +got):\n%s", step.yaml, err, diff)
		}
	}
	err := Shared{Name: "etcd", YAML: []byte("runDir: /run/x\n")}.Check()
	if want := `etcd:1:1: unknown key "runDir": the keys here are underlayFamily, mtu, masquerade, noMasqueradeTo, antiSpoofing, directRouting, vxlan`; text(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
