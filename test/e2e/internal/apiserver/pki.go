package apiserver

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
	"path/filepath"
	"time"
)

// Files in the server's folder.
const (
	serverCert = "server.crt"
	serverKey  = "server.key"
)

// pki is a certificate authority that issued one certificate, the apiserver's,
// and has thrown its key away.
type pki struct{ ca []byte } // PEM

func newPKI(dir string, server netip.Addr) (*pki, error) {
	ca, caKey, err := issue(authority(), nil, nil)
	if err != nil {
		return nil, err
	}
	cert, key, err := issue(servant(server), ca, caKey)
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the apiserver's key: %w", err)
	}
	for name, block := range map[string]*pem.Block{
		serverCert: {Type: "CERTIFICATE", Bytes: cert.Raw},
		serverKey:  {Type: "EC PRIVATE KEY", Bytes: raw},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, fmt.Errorf("write the apiserver's certificate: %w", err)
		}
	}
	return &pki{ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})}, nil
}

func authority() *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "e2e-ca"}, KeyUsage: x509.KeyUsageCertSign,
		IsCA: true, BasicConstraintsValid: true,
	}
}

func servant(server netip.Addr) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "kubernetes.default.svc"},
		IPAddresses: []net.IP{server.AsSlice()},
	}
}

// issue makes a key and a certificate for it, signed by the authority, or by
// itself if there is none.
func issue(template, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make the key of %s: %w", template.Subject.CommonName, err)
	}
	if ca == nil {
		ca, caKey = template, key
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-time.Hour) // clocks of machines differ
	template.NotAfter = time.Now().Add(7 * 24 * time.Hour)
	raw, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the certificate of %s: %w", template.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(raw)
	return cert, key, err
}
