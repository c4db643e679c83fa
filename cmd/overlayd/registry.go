package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/registry/etcd"
	"github.com/overlay-cni/overlay-cni/pkg/registry/file"
	"github.com/overlay-cni/overlay-cni/pkg/registry/kube"
)

// reachRegistry opens the registry that the configuration names. If the registry can't
// be opened on a host that has a network already, a stand-in tries again: ending would
// be worse than going on with what there is.
func reachRegistry(c config.Config, log *slog.Logger) (registry.Closable, error) {
	open := func() (registry.Closable, error) { return openRegistry(c, log) }
	r, err := open()
	if err == nil {
		return r, nil
	}
	if _, none := nodestate.Last(c.RunDir); none != nil {
		return nil, err
	}
	log.Error("the registry can't be opened, trying again", "err", err)
	return registry.NewLate(open, err), nil
}

// openRegistry opens the registry that the configuration names. A registry that
// runs elsewhere need not answer yet.
func openRegistry(c config.Config, log *slog.Logger) (registry.Closable, error) {
	switch c.Registry.Type {
	case config.RegistryKube:
		r, err := kube.New(kube.Options{NodeName: c.NodeName, Kubeconfig: c.Registry.Kubeconfig, Log: log})
		what := "reach the Kubernetes API"
		if c.Registry.Kubeconfig != "" {
			what += ", as registry.kubeconfig says"
		}
		return r, wrap(what, err)
	case config.RegistryEtcd:
		r, err := etcd.New(etcdOptions(c, log))
		return r, wrap("the settings of etcd have mistakes", err)
	default:
		r, err := file.New(c.Registry.File)
		if errors.Is(err, fs.ErrNotExist) {
			return r, fmt.Errorf("%w: write it, or name another file with registry.file", err)
		}
		return r, wrap("the nodes file has mistakes", err)
	}
}

func etcdOptions(c config.Config, log *slog.Logger) etcd.Options {
	e := c.Registry.Etcd
	published, _ := nodestate.Last(c.RunDir) // there may be none
	return etcd.Options{
		Endpoints: e.Endpoints, Prefix: e.Prefix,
		TLS:  etcd.TLS{CAFile: e.CA, CertFile: e.Cert, KeyFile: e.Key},
		User: e.Username, PasswordFile: e.PasswordFile,
		Node: c.NodeName, HostID: e.HostID, Previous: published.Subnets, TTL: e.LeaseTime,
		CheckSettings: func(name string, yaml []byte) error { return config.Shared{Name: name, YAML: yaml}.Check() },
		Log:           log,
	}
}

// leaveRegistry removes this host from etcd, in which hosts register themselves. No
// daemon may run on the host. It returns a description of what it removed, or "".
// Administrators write the other registries.
func leaveRegistry(ctx context.Context, c config.Config) (removed string, err error) {
	if c.Registry.Type != config.RegistryEtcd {
		return "", nil
	}
	freed, err := etcd.Release(ctx, etcdOptions(c, slog.Default()))
	if errors.Is(err, etcd.ErrNameTaken) {
		return "", err // the subnets there are another machine's
	}
	if err != nil {
		return "", fmt.Errorf("this host keeps its pod subnets in etcd for up to %s (its lease), or until uninstall is run again: %w", c.Registry.Etcd.LeaseTime, err)
	}
	if len(freed) == 0 {
		return "", nil
	}
	return fmt.Sprintf("node %s from etcd, which frees the pod subnets %s", c.NodeName, strings.Trim(fmt.Sprint(freed), "[]")), nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s:\n%w", what, err)
}
