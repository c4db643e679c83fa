package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// lifetime of certificates: a cluster to play with may stay for days.
const lifetime = 30 * 24 * time.Hour

// Users with a certificate and a kubeconfig file.
const (
	admin       = "admin"
	controllers = "kube-controller-manager"
	scheduler   = "kube-scheduler"
	kubeProxy   = "kube-proxy"
)

// identity is whom a certificate is for.
type identity struct {
	file      string // its files' name
	user      string
	group     string
	names     []string
	addresses []netip.Addr
}

func (c *Cluster) identities() []identity {
	all := []identity{
		{file: admin, user: "admin", group: "system:masters"},
		{file: controllers, user: "system:kube-controller-manager"},
		{file: scheduler, user: "system:kube-scheduler"},
		{file: kubeProxy, user: "system:kube-proxy"},
		{file: "front-proxy", user: "front-proxy-client"},
		{
			file: "apiserver", user: "kube-apiserver",
			names:     []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
			addresses: c.apiAddresses(),
		},
	}
	for _, n := range c.Nodes {
		all = append(all, identity{
			file: n.Name, user: "system:node:" + n.Name, group: "system:nodes",
			names: []string{n.Name}, addresses: n.Addresses,
		})
	}
	return all
}

// apiAddresses are those by which the API server is asked.
func (c *Cluster) apiAddresses() []netip.Addr {
	all := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	for _, f := range c.Families {
		all = append(all, f.control, f.api)
	}
	return all
}

// pkiPath is a file of the cluster's certificates and keys. It has the same
// path in nodes.
func (c *Cluster) pkiPath(name string) string { return c.path("pki", name) }

// Kubeconfig is the administrator's kubeconfig file. The server's address in it
// leads there from nodes and from the switch.
func (c *Cluster) Kubeconfig() string { return c.pkiPath(admin + ".conf") }

// certificates makes the authority, and a certificate, a key and a kubeconfig
// file for everyone.
func (c *Cluster) certificates() error {
	if err := os.MkdirAll(c.pkiPath(""), 0o755); err != nil {
		return err
	}
	ca, err := c.issue(identity{file: "ca", user: "cluster-ca"}, nil)
	if err != nil {
		return err
	}
	// Service accounts' tokens are signed with a key that needs no certificate;
	// kube-apiserver takes one for the public key.
	if _, err := c.issue(identity{file: "sa", user: "service-accounts"}, nil); err != nil {
		return err
	}
	for _, id := range c.identities() {
		if _, err := c.issue(id, ca); err != nil {
			return err
		}
		if err := c.writeKubeconfig(id.file); err != nil {
			return err
		}
	}
	return nil
}

// signer is a certificate with its key.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a key and a certificate, signed by the authority or, without one,
// by itself.
func (c *Cluster) issue(id identity, by *signer) (*signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of %s: %w", id.file, err)
	}
	template := id.template()
	own := &signer{cert: template, key: key}
	if by == nil {
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage |= x509.KeyUsageCertSign
		by = own
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", id.file, err)
	}
	if own.cert, err = x509.ParseCertificate(raw); err != nil {
		return nil, fmt.Errorf("read the certificate of %s: %w", id.file, err)
	}
	return own, c.writePair(id.file, own)
}

func (id identity) template() *x509.Certificate {
	subject := pkix.Name{CommonName: id.user}
	if id.group != "" {
		subject.Organization = []string{id.group}
	}
	var addresses []net.IP
	for _, a := range id.addresses {
		addresses = append(addresses, a.AsSlice())
	}
	return &x509.Certificate{
		Subject: subject, DNSNames: id.names, IPAddresses: addresses,
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Minute), NotAfter: time.Now().Add(lifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func (c *Cluster) writePair(file string, s *signer) error {
	raw, err := x509.MarshalECPrivateKey(s.key)
	if err != nil {
		return fmt.Errorf("encode the key of %s: %w", file, err)
	}
	for suffix, block := range map[string]*pem.Block{
		".crt": {Type: "CERTIFICATE", Bytes: s.cert.Raw},
		".key": {Type: "EC PRIVATE KEY", Bytes: raw},
	} {
		if err := os.WriteFile(c.pkiPath(file+suffix), pem.EncodeToMemory(block), 0o600); err != nil {
			return fmt.Errorf("write the certificate of %s: %w", file, err)
		}
	}
	return nil
}

func (c *Cluster) writeKubeconfig(user string) error {
	const name = "e2e"
	file := clientcmdapi.NewConfig()
	file.Clusters[name] = &clientcmdapi.Cluster{Server: c.apiURL(), CertificateAuthority: c.pkiPath("ca.crt")}
	file.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificate: c.pkiPath(user + ".crt"), ClientKey: c.pkiPath(user + ".key")}
	file.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: user}
	file.CurrentContext = name
	if err := clientcmd.WriteToFile(*file, c.pkiPath(user+".conf")); err != nil {
		return fmt.Errorf("write the kubeconfig of %s: %w", user, err)
	}
	return nil
}
