package etcd

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// patient is longer than anything here takes on a machine that is busy.
const patient = 30 * time.Second

// lastPort counts ports of the sandbox's loopback interface.
var lastPort atomic.Int32

func freePort() int { return int(lastPort.Add(1)) + 20000 }

// cluster is a running etcd.
type cluster struct {
	t       testing.TB
	members []*member
	scheme  string
	timing  timing // of its hosts
	// config is for clients with which tests read and change the cluster as root.
	config clientv3.Config
}

// member is one server, which may be stopped and started again.
type member struct {
	t      testing.TB
	client string // URL
	args   []string
	dir    string
	cmd    *exec.Cmd
	log    *bytes.Buffer
}

// setup is how a cluster differs from a single member that anybody may use.
type setup struct {
	members int
	args    []string
	tls     *authority // servers and clients have its certificates
}

func startCluster(t testing.TB, s setup) *cluster {
	t.Helper()
	c := &cluster{t: t, scheme: "http", timing: quick(), config: clientv3.Config{Logger: zap.NewNop()}}
	var initial []string
	for i := range max(1, s.members) {
		m := &member{t: t, dir: t.TempDir()}
		peer := fmt.Sprintf("http://127.0.0.1:%d", freePort())
		if s.tls != nil {
			c.scheme = "https"
			m.args = append(m.args, s.tls.serverArgs(t)...)
			c.config.TLS = s.tls.client(t)
		}
		m.client = fmt.Sprintf("%s://127.0.0.1:%d", c.scheme, freePort())
		name := fmt.Sprintf("m%d", i)
		initial = append(initial, name+"="+peer)
		m.args = append(m.args, "--name="+name, "--data-dir="+m.dir+"/data", "--unsafe-no-fsync", "--log-level=warn",
			"--heartbeat-interval=20", "--election-timeout=200",
			"--listen-client-urls="+m.client, "--advertise-client-urls="+m.client,
			"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer)
		m.args = append(m.args, s.args...)
		c.members = append(c.members, m)
	}
	for _, m := range c.members {
		m.args = append(m.args, "--initial-cluster="+strings.Join(initial, ","))
		m.start()
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			m.kill()
		}
	})
	c.config.Endpoints = c.endpoints()
	c.ready()
	return c
}

func (m *member) start() {
	m.t.Helper()
	m.log = &bytes.Buffer{}
	m.cmd = exec.Command(program(), m.args...)
	m.cmd.Stderr = m.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
}

// kill is SIGKILL: nothing is written and nobody is told.
func (m *member) kill() {
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	m.cmd = nil
	if m.t.Failed() {
		m.t.Logf("%s:\n%s", m.client, m.log)
	}
}

func (m *member) signal(s syscall.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		m.t.Fatal(err)
	}
}

func (c *cluster) endpoints() []string {
	var all []string
	for _, m := range c.members {
		all = append(all, m.client)
	}
	return all
}

// do runs something as the cluster's root.
func (c *cluster) do(what func(context.Context, *clientv3.Client) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	client, err := clientv3.New(c.config)
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.Close()
	if err := what(ctx, client); err != nil {
		c.t.Fatal(err)
	}
}

// ready returns when the cluster answers. A client that comes before its server
// would wait a second before it tries again.
func (c *cluster) ready() {
	c.t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	late := time.After(patient)
	for _, m := range c.members {
		_, address, _ := strings.Cut(m.client, "://")
		for {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-poll.C:
			case <-late:
				c.t.Fatalf("etcd does not start: %v", err)
			}
		}
	}
	c.get("/")
}

// awaitPut returns when the key was written after a revision.
func (c *cluster) awaitPut(key string, revision int64) {
	c.t.Helper()
	c.do(func(ctx context.Context, client *clientv3.Client) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for resp := range client.Watch(ctx, key, clientv3.WithRev(revision+1), clientv3.WithFilterDelete()) {
			if len(resp.Events) > 0 {
				return nil
			}
		}
		return fmt.Errorf("nobody wrote %s: %w", key, ctx.Err())
	})
}

func (c *cluster) get(key string, opts ...clientv3.OpOption) (resp *clientv3.GetResponse) {
	c.t.Helper()
	c.do(func(ctx context.Context, client *clientv3.Client) (err error) {
		resp, err = client.Get(ctx, key, opts...)
		return err
	})
	return resp
}

func (c *cluster) put(key, value string) {
	c.t.Helper()
	c.do(func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Put(ctx, key, value)
		return err
	})
}

func (c *cluster) remove(key string, opts ...clientv3.OpOption) {
	c.t.Helper()
	c.do(func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Delete(ctx, key, opts...)
		return err
	})
}

// keys lists what is below the prefix, without it.
func (c *cluster) keys() []string {
	c.t.Helper()
	var all []string
	for _, kv := range c.get(DefaultPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly()).Kvs {
		all = append(all, strings.TrimPrefix(string(kv.Key), DefaultPrefix+"/"))
	}
	return all
}

// wire is a line to etcd that can be cut.
type wire struct {
	t        testing.TB
	address  string
	to       string
	listener net.Listener
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
	count int // of connections, also of those that were refused
	cut   bool
}

// newWire leads to a member.
func newWire(t testing.TB, m *member) *wire {
	t.Helper()
	w := &wire{t: t, to: strings.TrimPrefix(m.client, "http://")}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.listener, w.address = listener, "http://"+listener.Addr().String()
	w.wg.Go(w.accept)
	t.Cleanup(func() {
		listener.Close()
		w.setCut(true)
		w.wg.Wait()
	})
	return w
}

func (w *wire) accept() {
	for {
		in, err := w.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", w.to)
		w.mu.Lock()
		w.count++
		if err != nil || w.cut {
			in.Close()
			if out != nil {
				out.Close()
			}
		} else {
			w.conns = append(w.conns, in, out)
			w.wg.Go(func() { carry(in, out) })
			w.wg.Go(func() { carry(out, in) })
		}
		w.mu.Unlock()
	}
}

func carry(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			return
		}
	}
}

// setCut ends all connections, and refuses new ones until it is called again.
func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

func (w *wire) connections() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}
