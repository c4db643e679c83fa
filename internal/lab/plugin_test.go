package lab

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

func TestEnvironment(t *testing.T) {
	c := call{command: "ADD", container: "pod1", netns: "/run/netns/pod1", ifName: "eth0", args: [][2]string{{"A", "1"}, {"B", "2"}}}
	got := c.environment("/opt/cni/bin/overlay-cni")
	want := []string{
		"CNI_COMMAND=ADD", "CNI_CONTAINERID=pod1", "CNI_NETNS=/run/netns/pod1", "CNI_IFNAME=eth0",
		"CNI_PATH=/opt/cni/bin", "CNI_ARGS=A=1;B=2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestPluginError(t *testing.T) {
	exit := errors.New("exit status 1")
	var reported *types.Error
	err := pluginError(exit, []byte(`{"cniVersion":"1.0.0","code":11,"msg":"try again"}`), nil)
	if !errors.As(err, &reported) || reported.Code != types.ErrTryAgainLater || reported.Msg != "try again" {
		t.Errorf("got %#v", err)
	}
	for _, stdout := range []string{"", "{}", "panic: no"} {
		err := pluginError(exit, []byte(stdout), []byte("trace"))
		if !errors.Is(err, exit) || !strings.Contains(err.Error(), "trace") {
			t.Errorf("for %q: got %v", stdout, err)
		}
	}
}

func TestWithPrevResult(t *testing.T) {
	tests := map[string]struct{ config, result, want string }{
		"result":         {`{"name":"n"}`, `{"ips":[]}`, `{"name":"n","prevResult":{"ips":[]}}`},
		"no result":      {`{"name":"n"}`, ``, `{"name":"n"}`},
		"replaced":       {`{"prevResult":1}`, `2`, `{"prevResult":2}`},
		"not JSON fails": {`{`, `2`, ``},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := withPrevResult([]byte(tt.config), []byte(tt.result))
			if string(got) != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
}
