package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// Admin is the user who may do everything.
const Admin = "admin"

// User is somebody whom the apiserver knows, by a token.
type User struct {
	Name   string
	Groups []string
}

// Options configure the apiserver. Dir is required.
type Options struct {
	// Dir takes all files: data, certificates, kubeconfigs, logs.
	Dir string
	// Bin is the folder of the programs; empty: bin/e2e of this work tree.
	Bin string
	// Address is where the apiserver listens; none: 127.0.0.1.
	Address netip.Addr
	// Users are those that there are beside Admin.
	Users []User
	// Authorization is a mode of kube-apiserver; empty: AlwaysAllow, with which
	// each user may do everything. RBAC allows nothing but what roles say, to
	// all but Admin.
	Authorization string
	// Flags are added to the command line of kube-apiserver.
	Flags []string
}

// Server is an apiserver with its etcd. Its methods and its processes' are for
// one goroutine at a time.
type Server struct {
	Etcd, APIServer *Process

	options Options
	address netip.AddrPort
	ca      []byte // PEM
	netns   *sandbox.Netns
}

// Start starts both servers in the network namespace of the calling thread, and
// returns once clients can use them. If ctx ends before, nothing keeps running.
func Start(ctx context.Context, o Options) (*Server, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	s := &Server{options: o}
	if s.address, err = freePort(o.Address); err != nil {
		return nil, err
	}
	if s.ca, err = writeCertificate(o.Dir, o.Address); err != nil {
		return nil, err
	}
	if err := s.writeTokens(); err != nil {
		return nil, err
	}
	if s.netns, err = sandbox.OpenNetns("/proc/thread-self/ns/net"); err != nil {
		return nil, err
	}
	s.Etcd, s.APIServer = s.process("etcd", etcdFlags()), s.process("kube-apiserver", s.flags())
	// They find each other, so they need not wait for each other.
	err = errors.Join(s.Etcd.Start(), s.APIServer.Start())
	if err == nil {
		err = s.AwaitReady(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (o Options) complete() (Options, error) {
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return o, err
	}
	if o.Bin == "" {
		o.Bin, err = findBin()
	} else {
		o.Bin, err = filepath.Abs(o.Bin)
	}
	if err != nil {
		return o, err
	}
	if !o.Address.IsValid() {
		o.Address = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if o.Authorization == "" {
		o.Authorization = "AlwaysAllow"
	}
	if slices.ContainsFunc(o.Users, func(u User) bool { return u.Name == Admin }) {
		return o, fmt.Errorf("user %q is there already: leave it out", Admin)
	}
	o.Users = append([]User{{Name: Admin, Groups: []string{"system:masters"}}}, o.Users...)
	return o, os.MkdirAll(o.Dir, 0o755)
}

// findBin looks for the programs in this folder and those above it, so that
// tests find them from wherever in the work tree they are.
func findBin() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		bin := filepath.Join(dir, "bin", "e2e")
		if _, err := os.Stat(filepath.Join(bin, "kube-apiserver")); err == nil {
			return bin, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no bin/e2e/kube-apiserver in %s or above it: build it with \"make e2e-bin\"", wd)
		}
	}
}

// freePort returns a port that is free now. Restarts keep it, as clients expect.
func freePort(a netip.Addr) (netip.AddrPort, error) {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find a port for kube-apiserver: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// etcdFlags: sockets are in the working folder, since their paths have to be
// short. Nothing here is to survive the machine, so nothing is synced to disk.
func etcdFlags() []string {
	return []string{
		"--data-dir=data", "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=unix://client:0", "--advertise-client-urls=unix://client:0",
		"--listen-peer-urls=unix://peer:0", "--initial-advertise-peer-urls=unix://peer:0",
		"--initial-cluster=default=unix://peer:0",
	}
}

func (s *Server) flags() []string {
	address := s.address.Addr().String()
	flags := []string{
		"--etcd-servers=unix://client:0",
		"--bind-address=" + address, "--advertise-address=" + address, fmt.Sprintf("--secure-port=%d", s.address.Port()),
		"--endpoint-reconciler-type=none", // it would refuse a loopback address
		"--tls-cert-file=" + serverCert, "--tls-private-key-file=" + serverKey, "--cert-dir=.",
		"--token-auth-file=" + tokens, "--authorization-mode=" + s.options.Authorization,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + serverKey, "--service-account-signing-key-file=" + serverKey,
		"--service-cluster-ip-range=10.96.0.0/16",
		"--disable-admission-plugins=ServiceAccount", // pods would need a token
		"--shutdown-delay-duration=0",
	}
	return append(flags, s.options.Flags...)
}

// URL is where the apiserver is.
func (s *Server) URL() string { return "https://" + s.address.String() }

// Close ends both servers at once and for good. Files stay.
func (s *Server) Close() error {
	return errors.Join(s.APIServer.Kill(), s.Etcd.Kill(), s.netns.Close())
}
