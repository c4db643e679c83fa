package pki_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab/pki"
)

func newAuthority(t *testing.T) *pki.Authority {
	t.Helper()
	a, err := pki.New("authority")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// issue makes a certificate and reads it back from its files.
func issue(t *testing.T, a *pki.Authority, id pki.Identity) tls.Certificate {
	t.Helper()
	pair, err := a.Issue(id)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "file")
	if err := pair.Write(path); err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(path+".crt", path+".key")
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func pool(a *pki.Authority) *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(a.Cert)
	return p
}

func TestServerAndClientTrustEachOther(t *testing.T) {
	ours, stranger := newAuthority(t), newAuthority(t)
	four, six := netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("fd00:77::1")
	for what, tt := range map[string]struct {
		server, client *pki.Authority
		address        netip.Addr
		asks           string // for this name
		want           string // in the error
	}{
		"IPv4":           {ours, ours, four, "192.168.77.1", ""},
		"IPv6":           {ours, ours, six, "fd00:77::1", ""},
		"by name":        {ours, ours, four, "server.example", ""},
		"other address":  {ours, ours, four, "192.168.77.2", "valid for 192.168.77.1, not 192.168.77.2"},
		"unknown server": {stranger, ours, four, "192.168.77.1", "unknown authority"},
		"unknown client": {ours, stranger, six, "fd00:77::1", "unknown authority"},
	} {
		t.Run(what, func(t *testing.T) {
			server := &tls.Config{
				Certificates: []tls.Certificate{issue(t, tt.server, pki.Identity{
					Name: "server", DNS: []string{"server.example"}, Addresses: []netip.Addr{tt.address},
				})},
				ClientCAs: pool(ours), ClientAuth: tls.RequireAndVerifyClientCert,
			}
			client := &tls.Config{
				Certificates: []tls.Certificate{issue(t, tt.client, pki.Identity{Name: "client", Group: "clients"})},
				RootCAs:      pool(ours), ServerName: tt.asks,
			}
			if err := talk(t, server, client); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Verifiers may insist on it: two authorities may have one name.
func TestCertificatesNameTheirAuthoritysKey(t *testing.T) {
	a := newAuthority(t)
	block, _ := pem.Decode(a.Cert)
	authority, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	issued := issue(t, a, pki.Identity{Name: "server"}).Leaf
	if len(authority.SubjectKeyId) == 0 || !bytes.Equal(issued.AuthorityKeyId, authority.SubjectKeyId) {
		t.Errorf("the certificate names the key %x of an authority that has %x", issued.AuthorityKeyId, authority.SubjectKeyId)
	}
}

// talk has the server send something, and returns what either side refuses.
func talk(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	sent := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			defer conn.Close()
			_, err = tls.Server(conn, server).Write([]byte("something"))
		}
		sent <- err
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tls.Client(conn, client).Read(make([]byte, 1))
	conn.Close()
	return errors.Join(err, <-sent)
}

func TestKubernetesSeesUserAndGroup(t *testing.T) {
	cert := issue(t, newAuthority(t), pki.Identity{Name: "admin", Group: "system:masters"})
	subject := cert.Leaf.Subject
	if subject.CommonName != "admin" || len(subject.Organization) != 1 || subject.Organization[0] != "system:masters" {
		t.Errorf("got %v", subject)
	}
}

func TestOthersCannotReadTheKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca")
	if err := newAuthority(t).Write(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path + ".key")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info, err)
	}
}
