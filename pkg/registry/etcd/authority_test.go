package etcd

import (
	"crypto/tls"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab/pki"
)

// authority makes certificates.
type authority struct {
	*pki.Authority
	file string // PEM
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a, err := pki.New("authority")
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := write(t, a.Pair)
	return &authority{a, cert}
}

// write puts a certificate and its key into files of their own.
func write(t testing.TB, p pki.Pair) (cert, key string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pair")
	if err := p.Write(path); err != nil {
		t.Fatal(err)
	}
	return path + ".crt", path + ".key"
}

// files makes a certificate for either side, and returns its files.
func (a *authority) files(t testing.TB) (cert, key string) {
	t.Helper()
	pair, err := a.Issue(pki.Identity{Name: "someone", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, pair)
}

func (a *authority) serverArgs(t testing.TB) []string {
	cert, key := a.files(t)
	return []string{"--cert-file=" + cert, "--key-file=" + key, "--trusted-ca-file=" + a.file, "--client-cert-auth"}
}

func (a *authority) client(t testing.TB) *tls.Config {
	t.Helper()
	cert, key := a.files(t)
	config, err := TLS{CAFile: a.file, CertFile: cert, KeyFile: key}.load()
	if err != nil {
		t.Fatal(err)
	}
	return config
}
