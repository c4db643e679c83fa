package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// call is one run of a CNI plugin, by the CNI specification 1.0.
type call struct {
	command   string // ADD, DEL, CHECK
	container string
	netns     string
	ifName    string
	args      [][2]string
	config    []byte // for stdin
}

func (c call) environment(plugin string) []string {
	env := []string{
		"CNI_COMMAND=" + c.command,
		"CNI_CONTAINERID=" + c.container,
		"CNI_NETNS=" + c.netns,
		"CNI_IFNAME=" + c.ifName,
		"CNI_PATH=" + filepath.Dir(plugin),
	}
	if len(c.args) == 0 {
		return env
	}
	var pairs []string
	for _, kv := range c.args {
		pairs = append(pairs, kv[0]+"="+kv[1])
	}
	return append(env, "CNI_ARGS="+strings.Join(pairs, ";"))
}

// invoke runs the plugin on the host and returns its standard output. What it
// reports as failed is a *types.Error.
func (h *Host) invoke(ctx context.Context, c call) ([]byte, error) {
	plugin := h.lab.config.Plugin
	cmd := exec.CommandContext(ctx, plugin)
	cmd.Env = c.environment(plugin)
	cmd.Stdin = bytes.NewReader(c.config)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = outputTime
	err := h.Netns().Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return nil, fmt.Errorf("CNI %s for %s on %s: %w", c.command, c.container, h.Name, pluginError(err, stdout.Bytes(), stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// pluginError returns the error that the plugin printed.
func pluginError(err error, stdout, stderr []byte) error {
	var reported types.Error
	if json.Unmarshal(stdout, &reported) == nil && (reported.Msg != "" || reported.Code != 0) {
		return &reported
	}
	return fmt.Errorf("%w, without a CNI error: stdout %q, stderr %q", err, stdout, stderr)
}

// withPrevResult adds the result of ADD to a configuration, as runtimes do for
// DEL and CHECK.
func withPrevResult(config, result []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, fmt.Errorf("CNI configuration: %w", err)
	}
	if len(result) > 0 {
		fields["prevResult"] = result
	}
	return json.Marshal(fields)
}

// parseResult reads the output of ADD in any version of the specification.
func parseResult(out []byte) (*types100.Result, error) {
	var v types.PluginConf
	if err := json.Unmarshal(out, &v); err != nil {
		return nil, fmt.Errorf("CNI result %q: %w", out, err)
	}
	if v.CNIVersion == "" {
		return nil, errors.New("CNI result without cniVersion")
	}
	var r types100.Result
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, fmt.Errorf("CNI result %q: %w", out, err)
	}
	return &r, nil
}
