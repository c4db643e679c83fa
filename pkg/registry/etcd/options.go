package etcd

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

const (
	// DefaultPrefix is what all keys begin with.
	DefaultPrefix = "/overlay-cni"
	// DefaultTTL is longer than a reboot or an interruption of the network, so a host
	// keeps its subnets through either. The subnets of a host that never comes back
	// may stay taken for that time.
	DefaultTTL = time.Hour
	// minTTL refuses a wrong unit (30ms): a lease has to last longer than an election
	// in etcd and a daemon's restart, or hosts lose their subnets.
	minTTL = 10 * time.Second
)

// Options says where etcd is and who this host is.
type Options struct {
	// Endpoints are URLs of one or more members of the cluster, such as
	// https://192.0.2.1:2379. The client uses another one if one fails.
	Endpoints []string
	// Prefix is the beginning of all keys; empty: DefaultPrefix.
	Prefix string
	TLS    TLS
	// User and PasswordFile are for a cluster with authentication. Either both or
	// none are set. Each connection reads the file again.
	User         string
	PasswordFile string

	// Node is this host's name.
	Node string
	// HostID tells this machine from others of the same name and stays the same
	// over reboots; empty derives it from /etc/machine-id.
	HostID string
	// Previous are the pod subnets that this host had when the daemon last ran. The
	// host gets them again if they are free and fit the configuration.
	Previous []netip.Prefix
	// TTL is the time to live of this host's lease: how long the host stays
	// registered, with its subnets, when it can't reach etcd. 0: DefaultTTL.
	TTL time.Duration

	// CheckSettings returns an error if the mapping "settings" of the configuration
	// is wrong. It gets the same text as Settings returns, and a name for messages.
	// Nil accepts everything.
	CheckSettings func(name string, yaml []byte) error
	// Log gets what an operator should know beside the errors that Nodes returns.
	// Nil: slog.Default.
	Log *slog.Logger
}

// TLS names PEM files. They may be replaced at any time: each new connection reads
// them again.
type TLS struct {
	// CAFile holds the CA certificates for the servers' certificates. If it is empty,
	// the client trusts the CAs of the system.
	CAFile string
	// CertFile and KeyFile are this client's certificate and key. Either both or none
	// are set.
	CertFile, KeyFile string
}

func (t TLS) isSet() bool { return t != TLS{} }

// complete fills in the defaults. Its error joins all mistakes.
func (o Options) complete() (Options, error) {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	o.Prefix = strings.TrimRight(o.Prefix, "/")
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.CheckSettings == nil {
		o.CheckSettings = func(string, []byte) error { return nil }
	}
	return o, errors.Join(o.checkEndpoints(), o.checkPrefix(), o.checkFiles(), registry.CheckName(o.Node), o.checkTTL())
}

func (o Options) checkPrefix() error {
	if o.Prefix == "" || strings.ContainsFunc(o.Prefix, unicode.IsControl) || path.Clean(o.Prefix) != o.Prefix {
		return fmt.Errorf("%q is not a prefix for keys in etcd: expected a path such as %s", o.Prefix, DefaultPrefix)
	}
	return nil
}

func (o Options) checkTTL() error {
	if o.TTL < minTTL || o.TTL%time.Second != 0 {
		return fmt.Errorf("the time to live of this host's lease is %s: expected whole seconds, at least %s, such as %s",
			o.TTL, minTTL, DefaultTTL)
	}
	return nil
}

func (o Options) checkFiles() error {
	var errs []error
	if (o.TLS.CertFile == "") != (o.TLS.KeyFile == "") {
		errs = append(errs, fmt.Errorf("the client certificate for etcd is %q and its key %q: give both files or none",
			o.TLS.CertFile, o.TLS.KeyFile))
	}
	if (o.User == "") != (o.PasswordFile == "") {
		errs = append(errs, fmt.Errorf("the user for etcd is %q and the password file %q: give both or none",
			o.User, o.PasswordFile))
	}
	return errors.Join(errs...)
}

// checkEndpoints also requires the same scheme for all endpoints: the client would
// use the first endpoint's scheme for all of them.
func (o Options) checkEndpoints() error {
	if len(o.Endpoints) == 0 {
		return errors.New("no endpoint of etcd is given: expected URLs of its members, such as https://192.0.2.1:2379")
	}
	var errs []error
	for _, e := range o.Endpoints {
		errs = append(errs, checkEndpoint(e))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	first, _, _ := strings.Cut(o.Endpoints[0], ":")
	for _, e := range o.Endpoints[1:] {
		if scheme, _, _ := strings.Cut(e, ":"); scheme != first {
			return fmt.Errorf("endpoints %s and %s of etcd differ in their scheme: give %s for all", o.Endpoints[0], e, first)
		}
	}
	if first == "http" && o.TLS.isSet() {
		return fmt.Errorf("endpoint %s of etcd is not encrypted, but files for TLS are given: write https, or leave out the files", o.Endpoints[0])
	}
	return nil
}

func checkEndpoint(e string) error {
	const want = "expected a URL such as https://192.0.2.1:2379"
	u, err := url.Parse(e)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not an endpoint of etcd: %s", e, want)
	case u.Scheme == "unix" || u.Scheme == "unixs":
		return nil
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("endpoint %q of etcd begins with neither https:// nor http://: %s", e, want)
	case u.Port() == "" || u.Hostname() == "":
		return fmt.Errorf("endpoint %q of etcd has no host or no port: %s", e, want)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil:
		return fmt.Errorf("endpoint %q of etcd has more than scheme, host and port: %s", e, want)
	}
	return nil
}
