package cluster

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const etcdURL = "http://127.0.0.1:2379"

func (c *Cluster) startControlPlane(ctx context.Context) error {
	// What etcd holds is gone with the node's /run: a cluster that is made anew
	// begins empty. The node isn't rebooted.
	err := c.start(Control, "etcd", c.program("etcd"), "--data-dir=/run/etcd", "--unsafe-no-fsync",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL)
	if err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	return errors.Join(c.startControllers(), c.startScheduler())
}

// control is the address of the API server.
func (c *Cluster) control() netip.Addr { return c.Families[0].control }

func (c *Cluster) apiURL() string {
	return "https://" + netip.AddrPortFrom(c.control(), apiPort).String()
}

// APIServer is the name of its program, for Kill and Signal.
const APIServer = "kube-apiserver"

// StartAPIServer starts it, and waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	pki := c.pkiPath
	err := c.start(Control, APIServer, c.program(APIServer),
		"--etcd-servers="+etcdURL, "--bind-address="+wildcard(c.Families).String(), "--advertise-address="+c.control().String(),
		"--service-cluster-ip-range="+serviceCIDRs(c.Families),
		"--tls-cert-file="+pki("apiserver.crt"), "--tls-private-key-file="+pki("apiserver.key"), "--client-ca-file="+pki("ca.crt"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+pki("sa.crt"), "--service-account-signing-key-file="+pki("sa.key"),
		"--kubelet-client-certificate="+pki("admin.crt"), "--kubelet-client-key="+pki("admin.key"),
		"--kubelet-certificate-authority="+pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file="+pki("ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file="+pki("front-proxy.crt"), "--proxy-client-key-file="+pki("front-proxy.key"))
	if err != nil {
		return err
	}
	client, err := c.Client()
	if err != nil {
		return err
	}
	return Poll(ctx, "kube-apiserver, see "+c.LogFile(Control, APIServer), func(ctx context.Context) error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

func (c *Cluster) startControllers() error {
	config := c.pkiPath(controllers + ".conf")
	return c.start(Control, controllers, c.program(controllers),
		"--kubeconfig="+config, "--authentication-kubeconfig="+config, "--authorization-kubeconfig="+config,
		"--allocate-node-cidrs=true", "--leader-elect=false",
		"--cluster-cidr="+podCIDRs(c.Families), "--service-cluster-ip-range="+serviceCIDRs(c.Families),
		"--service-account-private-key-file="+c.pkiPath("sa.key"), "--root-ca-file="+c.pkiPath("ca.crt"),
		"--use-service-account-credentials=true")
}

func (c *Cluster) startScheduler() error {
	config := c.pkiPath(scheduler + ".conf")
	return c.start(Control, scheduler, c.program(scheduler),
		"--kubeconfig="+config, "--authentication-kubeconfig="+config, "--authorization-kubeconfig="+config, "--leader-elect=false")
}

// Config is the administrator's, from any network namespace.
func (c *Cluster) Config() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // a client's own limit, off: what is asked for is wanted now
	config.Dial = c.dial
	return config, nil
}

// Client is the administrator's.
func (c *Cluster) Client() (*kubernetes.Clientset, error) {
	config, err := c.Config()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// dial connects from the switch's namespace.
func (c *Cluster) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return c.dialFrom(ctx, Switch, network, address)
}

// dialFrom connects from a namespace. A connection to an address is made by the
// thread that asks for it.
func (c *Cluster) dialFrom(ctx context.Context, from, network, address string) (conn net.Conn, err error) {
	ns, err := c.Netns(from)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = ns.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Kubectl runs kubectl as the administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.run(ctx, Switch, append([]string{
		c.program("kubectl"), "--kubeconfig=" + c.Kubeconfig(), "--cache-dir=" + c.path("cache"),
	}, args...)...)
}
