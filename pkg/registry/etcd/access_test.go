package etcd

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	c := startCluster(t, setup{tls: ca})
	c.put("/overlay-cni/config", config4)
	cert, key := ca.files(t)
	with := func(f TLS) func(*Options) { return func(o *Options) { o.TLS = f } }
	stranger := newAuthority(t)
	strangeCert, strangeKey := stranger.files(t)

	c.join(1, with(TLS{CAFile: ca.file, CertFile: cert, KeyFile: key})).awaitNames("host-1")
	for what, tt := range map[string]struct {
		files TLS
		want  string
	}{
		"unknown server": {TLS{CAFile: stranger.file, CertFile: cert, KeyFile: key}, "certificate signed by unknown authority"},
		"unknown client": {TLS{CAFile: ca.file, CertFile: strangeCert, KeyFile: strangeKey}, "tls: "},
		"no certificate": {TLS{CAFile: ca.file}, "tls: "},
		"no such file":   {TLS{CAFile: "/nowhere/ca.pem"}, "open /nowhere/ca.pem: no such file"},
		"not a CA file":  {TLS{CAFile: key}, "holds no certificate: expected PEM blocks of type CERTIFICATE"},
		"wrong key":      {TLS{CAFile: ca.file, CertFile: cert, KeyFile: strangeKey}, "private key does not match"},
	} {
		t.Run(what, func(t *testing.T) {
			h := c.join(2, with(tt.files))
			h.t = t
			h.awaitError(tt.want)
			h.close()
		})
	}
}

// Authorities and certificates are all replaced: first the servers', then the
// files of the host.
func TestTLSFilesAreReplaced(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	c := startCluster(t, setup{tls: ca})
	c.put("/overlay-cni/config", config4)
	dir := t.TempDir()
	files := TLS{CAFile: filepath.Join(dir, "ca"), CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key")}
	install := func(ca *authority) {
		cert, key := ca.files(t)
		for to, from := range map[string]string{files.CAFile: ca.file, files.CertFile: cert, files.KeyFile: key} {
			if err := os.Rename(copyOf(t, from), to); err != nil {
				t.Fatal(err)
			}
		}
	}
	install(ca)
	a := c.join(1, func(o *Options) { o.TLS = files })
	a.own()
	m := c.members[0]
	m.kill()
	next := newAuthority(t)
	m.args = append(m.args, next.serverArgs(t)...) // the last of two flags counts
	m.start()
	c.config.TLS = next.client(t)
	c.ready()
	a.awaitError("certificate signed by unknown authority")
	install(next)
	a.awaitNames("host-1")
}

func copyOf(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// enableAuth makes a root, and a user whose role has the prefix and no more.
func (c *cluster) enableAuth(user, password string) {
	c.t.Helper()
	c.do(func(ctx context.Context, client *clientv3.Client) error {
		for _, step := range []func() error{
			func() error { _, err := client.UserAdd(ctx, "root", "secret"); return err },
			func() error { _, err := client.UserGrantRole(ctx, "root", "root"); return err },
			func() error { _, err := client.RoleAdd(ctx, "overlay-cni"); return err },
			func() error {
				_, err := client.RoleGrantPermission(ctx, "overlay-cni", "/overlay-cni/", clientv3.GetPrefixRangeEnd("/overlay-cni/"),
					clientv3.PermissionType(clientv3.PermReadWrite))
				return err
			},
			func() error { _, err := client.UserAdd(ctx, user, password); return err },
			func() error { _, err := client.UserGrantRole(ctx, user, "overlay-cni"); return err },
			func() error { _, err := client.AuthEnable(ctx); return err },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	c.config.Username, c.config.Password = "root", "secret"
}

func passwordFile(t *testing.T, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Tokens end after a second, and the lease has to be renewed twice as often.
func TestUserAndPassword(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{args: []string{"--auth-token-ttl=1"}})
	c.enableAuth("hosts", "first")
	c.put("/overlay-cni/config", config4)
	file := passwordFile(t, "first")
	login := func(o *Options) { o.User, o.PasswordFile, o.TTL = "hosts", file, 2e9 }
	a := c.join(1, login)
	a.own()
	third := c.join(3, func(o *Options) { login(o); o.TTL = 5e9 })
	third.own()
	third.close()
	a.awaitNames("host-1 host-3")
	a.awaitNames("host-1")

	// The password changes: who is connected stays, who comes reads the file.
	c.do(func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.UserChangePassword(ctx, "hosts", "second")
		return err
	})
	b := c.join(2, login)
	b.awaitError("log in: etcdserver: authentication failed, invalid user ID or password")
	if err := os.Rename(passwordFile(t, "second"), file); err != nil {
		t.Fatal(err)
	}
	b.awaitNames("host-1 host-2")
	a.awaitNames("host-1 host-2")
}

func TestUserWithoutPermission(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.enableAuth("hosts", "first")
	file := passwordFile(t, "first")
	c.join(1, func(o *Options) { o.User, o.PasswordFile, o.Prefix = "hosts", file, "/other" }).
		awaitError("list the nodes: etcdserver: permission denied")
	c.join(2).awaitError("list the nodes: etcdserver: user name is empty")
}
