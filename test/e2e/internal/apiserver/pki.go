package apiserver

import (
	"net/netip"
	"path/filepath"

	"github.com/overlay-cni/overlay-cni/internal/lab/pki"
)

// Files in the server's folder.
const (
	server     = "server"
	serverCert = server + ".crt"
	serverKey  = server + ".key"
)

// writeCertificate makes the apiserver's certificate, and returns that of the
// authority, whose key is thrown away.
func writeCertificate(dir string, address netip.Addr) (ca []byte, err error) {
	authority, err := pki.New("e2e-ca")
	if err != nil {
		return nil, err
	}
	pair, err := authority.Issue(pki.Identity{
		Name: "kube-apiserver", DNS: []string{"localhost", "kubernetes.default.svc"}, Addresses: []netip.Addr{address},
	})
	if err != nil {
		return nil, err
	}
	return authority.Cert, pair.Write(filepath.Join(dir, server))
}
