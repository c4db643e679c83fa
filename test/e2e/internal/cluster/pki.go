package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/overlay-cni/overlay-cni/internal/lab/pki"
)

// Users with a certificate and a kubeconfig file.
const (
	admin       = "admin"
	controllers = "kube-controller-manager"
	scheduler   = "kube-scheduler"
	kubeProxy   = "kube-proxy"
)

// identities are those of everyone with a certificate, by their files' name.
func (c *Cluster) identities() map[string]pki.Identity {
	all := map[string]pki.Identity{
		admin:         {Name: "admin", Group: "system:masters"},
		controllers:   {Name: "system:kube-controller-manager"},
		scheduler:     {Name: "system:kube-scheduler"},
		kubeProxy:     {Name: "system:kube-proxy"},
		"front-proxy": {Name: "front-proxy-client"},
		"apiserver": {
			Name:      "kube-apiserver",
			DNS:       []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
			Addresses: c.apiAddresses(),
		},
	}
	for _, n := range c.Nodes {
		all[n.Name] = pki.Identity{
			Name: "system:node:" + n.Name, Group: "system:nodes",
			DNS: []string{n.Name}, Addresses: n.Addresses,
		}
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
	ca, err := c.authority("ca", "cluster-ca")
	if err != nil {
		return err
	}
	// Service accounts' tokens are signed with a key that needs no certificate;
	// kube-apiserver takes one for the public key.
	if _, err := c.authority("sa", "service-accounts"); err != nil {
		return err
	}
	for file, id := range c.identities() {
		pair, err := ca.Issue(id)
		if err != nil {
			return err
		}
		if err := errors.Join(pair.Write(c.pkiPath(file)), c.writeKubeconfig(file)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) authority(file, name string) (*pki.Authority, error) {
	a, err := pki.New(name)
	if err != nil {
		return nil, err
	}
	return a, a.Write(c.pkiPath(file))
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
