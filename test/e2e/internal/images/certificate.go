package images

import "github.com/overlay-cni/overlay-cni/internal/lab/pki"

// addCertificate adds what agnhost serves HTTPS with. Clients don't verify it.
func (t tree) addCertificate() error {
	authority, err := pki.New("localhost-ca")
	if err != nil {
		return err
	}
	pair, err := authority.Issue(pki.Identity{Name: "localhost", DNS: []string{"localhost"}})
	if err != nil {
		return err
	}
	t["localhost.crt"] = entry{text: string(pair.Cert)}
	t["localhost.key"] = entry{text: string(pair.Key)}
	return nil
}
