package apiserver

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// tokens is the file of users (the flag --token-auth-file).
const tokens = "tokens.csv"

func (s *Server) writeTokens() error {
	var text strings.Builder
	for _, u := range s.options.Users {
		if strings.ContainsAny(u.Name+strings.Join(u.Groups, ""), ",\"\n/") {
			return fmt.Errorf("user %q of groups %q: names must do without commas, quotes and slashes", u.Name, u.Groups)
		}
		fmt.Fprintf(&text, "%s,%s,%s,\"%s\"\n", token(u.Name), u.Name, u.Name, strings.Join(u.Groups, ","))
	}
	if err := os.WriteFile(filepath.Join(s.options.Dir, tokens), []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("write the users' tokens: %w", err)
	}
	return nil
}

// token is no secret: who can reach the apiserver runs this program.
func token(user string) string { return "token-of-" + user }

// Config is what client-go needs to be that user. It reaches the server from
// any network namespace.
func (s *Server) Config(user string) (*rest.Config, error) {
	if !slices.ContainsFunc(s.options.Users, func(u User) bool { return u.Name == user }) {
		return nil, fmt.Errorf("kube-apiserver knows no user %q: add it to Options.Users", user)
	}
	return &rest.Config{
		Host: s.URL(), BearerToken: token(user),
		TLSClientConfig: rest.TLSClientConfig{CAData: s.ca},
		QPS:             -1, // a client's own limit, off: what is asked for is wanted now
		Dial:            s.dial,
	}, nil
}

// dial connects from within the servers' namespace. A connection to an address
// is made by the thread that asks for it.
func (s *Server) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := s.netns.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Kubeconfig writes the kubeconfig file of a user and returns its path. It is for
// programs in the servers' namespace, or on a network that leads there.
func (s *Server) Kubeconfig(user string) (string, error) {
	config, err := s.Config(user)
	if err != nil {
		return "", err
	}
	const name = "e2e"
	file := clientcmdapi.NewConfig()
	file.Clusters[name] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	file.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: config.BearerToken}
	file.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: user}
	file.CurrentContext = name
	path := filepath.Join(s.options.Dir, user+".kubeconfig")
	if err := clientcmd.WriteToFile(*file, path); err != nil {
		return "", fmt.Errorf("write the kubeconfig of user %q: %w", user, err)
	}
	return path, nil
}
