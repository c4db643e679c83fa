package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// A daemon that is restarted with a broken file goes on with the configuration that
// set up the host's network, and follows the file from there.
func TestWatchGoesOnWithWhatWasKept(t *testing.T) {
	for _, tt := range []struct {
		name, file string // "" for no file
		flags      string
		kept       string // the content of the kept file; "" for none
		wantErr    string // "" where Watch goes on
		refused    string // what Get says
	}{
		{"a mistake", "mtu: 1", "", keptHeader + "mtu: 1300\n", "", `mtu: "1"`},
		{"no YAML", "{", "", keptHeader + "mtu: 1300\n", "", "malformed YAML"},
		{"no file", "", "", keptHeader + "mtu: 1300\n", "", "no such file"},
		{"with flags", "mtu: 1", "--vxlan-port=8472", keptHeader + "mtu: 1300\n", "", `mtu: "1"`},
		{"nothing is kept", "mtu: 1", "", "", `mtu: "1"`, ""},
		{"another format", "mtu: 1", "", "# something else\nmtu: 1300\n", `mtu: "1"`, ""},
		{"what is kept has mistakes", "mtu: 1", "", keptHeader + "mtu: 2\n", `mtu: "1"`, ""},
		{"a mistaken flag", "mtu: 1300", "--vxlan-port=0", keptHeader + "mtu: 1300\n", "--vxlan-port", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "overlayd.yaml")
			write := func(path, text string) {
				t.Helper()
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if tt.file != "" {
				write(path, tt.file+"\n")
			}
			if tt.kept != "" {
				write(filepath.Join(dir, keptName), tt.kept)
			}
			flags := pflag.NewFlagSet("overlayd", pflag.ContinueOnError)
			loader := AddFlags(flags)
			loader.hostname = func() (string, error) { return "this-host", nil }
			if err := flags.Parse(append([]string{"--config", path, "--run-dir", dir}, strings.Fields(tt.flags)...)); err != nil {
				t.Fatal(err)
			}
			live, err := loader.Watch()
			if tt.wantErr != "" || err != nil {
				if tt.wantErr == "" || !strings.Contains(text(err), tt.wantErr) {
					t.Errorf("got %v", err)
				}
				return
			}
			defer live.Close()
			want := defaults()
			want.MTU, want.RunDir = 1300, dir
			if tt.flags != "" {
				want.VXLAN.Port = 8472
			}
			got, err := live.Get()
			if diff := cmp.Diff(want, got, equalConfigs()); diff != "" || !strings.Contains(text(err), tt.refused) {
				t.Errorf("error %v, configuration (-want +got):\n%s", err, diff)
			}
			write(path, "mtu: 1200\n")
			want.MTU = 1200
			for err != nil {
				<-live.Changed()
				got, err = live.Get()
			}
			if diff := cmp.Diff(want, got, equalConfigs()); diff != "" {
				t.Errorf("mended (-want +got):\n%s", diff)
			}
		})
	}
}

// The run directory may be named by the very file that has mistakes.
func TestKeptIsFoundInSpiteOfMistakes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(t.TempDir(), "overlayd.yaml")
	good := "runDir: " + dir + "\n"
	if changes, err := Keep(dir, good); len(changes) != 1 || err != nil {
		t.Fatalf("kept: %q, %v", changes, err)
	}
	if changes, err := Keep(dir, good); len(changes) > 0 || err != nil {
		t.Errorf("kept again: %q, %v", changes, err)
	}
	if info, err := os.Stat(filepath.Join(dir, keptName)); err != nil || info.Mode() != keptMode {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte(good+"mtuu: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	live := watch(t, "--config", path)
	if got, err := live.Get(); got.RunDir != dir || got.Text != good || !strings.Contains(text(err), "mtuu") {
		t.Errorf("got %+v, %v", got, err)
	}
	for range 2 {
		if err := Forget(dir); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
