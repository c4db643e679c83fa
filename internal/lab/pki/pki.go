// Package pki makes certificates for servers and clients that a test starts.
//
// Invariant: keys are thrown away with the process, but for those that Write
// puts into files. Nothing here is for a network that others can reach.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

const (
	// lifetime is long enough for a cluster to play with, which may stay for days.
	lifetime = 30 * 24 * time.Hour
	// skew is how far the clocks of machines may differ.
	skew = time.Hour
)

// Pair is a certificate and its private key, both in PEM.
type Pair struct{ Cert, Key []byte }

// Write makes the files path.crt and path.key.
func (p Pair) Write(path string) error {
	for suffix, text := range map[string][]byte{".crt": p.Cert, ".key": p.Key} {
		if err := os.WriteFile(path+suffix, text, 0o600); err != nil {
			return fmt.Errorf("write a certificate and its key: %w", err)
		}
	}
	return nil
}

// Identity is whom a certificate is for, as a server or as a client.
type Identity struct {
	Name      string
	Group     string       // what Kubernetes takes for a group; may be empty
	DNS       []string     // names by which clients know a server
	Addresses []netip.Addr // and addresses
}

// Authority signs certificates. Its own pair is signed by itself.
type Authority struct {
	Pair
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority.
func New(name string) (*Authority, error) {
	a := &Authority{cert: &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	var err error
	if a.key, err = newKey(name); err != nil {
		return nil, err
	}
	if a.Pair, err = a.sign(a.cert, a.key); err != nil {
		return nil, err
	}
	// What it signs has to name its key (RFC 5280, 4.2.1.1), of which the template
	// knows nothing.
	block, _ := pem.Decode(a.Cert)
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("read the certificate of %q back: %w", name, err)
	}
	return a, nil
}

// Issue makes a key, and a certificate for it.
func (a *Authority) Issue(id Identity) (Pair, error) {
	key, err := newKey(id.Name)
	if err != nil {
		return Pair{}, err
	}
	return a.sign(id.template(), key)
}

func newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of %q: %w", name, err)
	}
	return key, nil
}

func (id Identity) template() *x509.Certificate {
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: id.Name}, DNSNames: id.DNS,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if id.Group != "" {
		t.Subject.Organization = []string{id.Group}
	}
	for _, a := range id.Addresses {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
	}
	return t
}

// sign completes a template, and signs it for the holder of key.
func (a *Authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey) (Pair, error) {
	name := template.Subject.CommonName
	template.NotBefore, template.NotAfter = time.Now().Add(-skew), time.Now().Add(lifetime)
	cert, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("sign the certificate of %q: %w", name, err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("encode the key of %q: %w", name, err)
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}),
	}, nil
}
