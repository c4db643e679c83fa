package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// connect returns a client. It reads the files of password and CA certificates
// each time, because they may have been replaced. With a user, connect logs in.
// Without a user, it returns before there is a connection.
func connect(ctx context.Context, o Options, t timing) (*clientv3.Client, error) {
	c := clientv3.Config{
		Context:   ctx,
		Endpoints: o.Endpoints,
		// Bounds the login, which clientv3.New does.
		DialTimeout:          t.request,
		DialKeepAliveTime:    t.heartbeat,
		DialKeepAliveTimeout: t.heartbeat,
		// The client returns its errors too, and the daemon logs those.
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(noteReason)},
	}
	var err error
	if !strings.HasPrefix(o.Endpoints[0], "http:") {
		if c.TLS, err = o.TLS.load(); err != nil {
			return nil, err
		}
	}
	if o.User != "" {
		c.Username = o.User
		if c.Password, err = readPassword(o.PasswordFile); err != nil {
			return nil, err
		}
	}
	var r reason
	c.Context = context.WithValue(ctx, reasonKey{}, &r)
	client, err := clientv3.New(c)
	return client, r.explain(ctx, t, "log in", err)
}

func readPassword(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the password for etcd: %w", err)
	}
	password := strings.TrimRight(string(data), "\r\n")
	if password == "" {
		return "", fmt.Errorf("the password file %s for etcd is empty: write the password into its first line", file)
	}
	return password, nil
}

// load reads the CA certificates once. It makes every handshake read the client
// certificate again, so that new connections use a renewed certificate.
func (t TLS) load() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the CA certificates for etcd: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the CA file %s for etcd holds no certificate: expected PEM blocks of type CERTIFICATE", t.CAFile)
		}
	}
	if t.CertFile != "" {
		if _, err := t.certificate(nil); err != nil {
			return nil, err
		}
		c.GetClientCertificate = t.certificate
	}
	return c, nil
}

func (t TLS) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the client certificate for etcd (%s, %s): %w", t.CertFile, t.KeyFile, err)
	}
	return &c, nil
}

// request runs do with the timeout of a request. Its error names the request and the
// reason.
func request(ctx context.Context, t timing, doing string, do func(context.Context) error) error {
	var r reason
	limited, cancel := context.WithTimeout(context.WithValue(ctx, reasonKey{}, &r), t.request)
	defer cancel()
	return r.explain(ctx, t, doing, do(limited))
}

// requestOrSlow is request. If there is no answer for a while, it calls slow with the
// reason so far; never after it returned.
func requestOrSlow(ctx context.Context, t timing, doing string, do func(context.Context) error, slow func(error)) error {
	return request(ctx, t, doing, func(ctx context.Context) error {
		r, _ := ctx.Value(reasonKey{}).(*reason)
		answered := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			select {
			case <-answered:
			case <-time.After(t.slow):
				slow(fmt.Errorf("%s: %w", doing, r.withLast(fmt.Errorf("no answer in %s, still trying", t.slow))))
			}
		})
		defer wg.Wait()
		defer close(answered)
		return do(ctx)
	})
}

// reason holds the error of a request's last attempt. The client retries until the
// timeout, and then returns only DeadlineExceeded.
type reason struct {
	mu   sync.Mutex
	last error
}

func (r *reason) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = err
}

// withLast adds the last reason, if there is one.
func (r *reason) withLast(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		return err
	}
	return fmt.Errorf("%w: %s", err, status.Convert(r.last).Message())
}

type reasonKey struct{}

// noteReason records the error of each attempt: it runs inside the client's retry
// loop.
func noteReason(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if r, ok := ctx.Value(reasonKey{}).(*reason); ok && err != nil {
		r.note(err)
	}
	return err
}

// explain adds the request and the reason to an error. It returns err itself if ctx
// has ended, because that happens only when the registry closes.
func (r *reason) explain(ctx context.Context, t timing, doing string, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = r.withLast(fmt.Errorf("no answer in %s", t.request))
	}
	return fmt.Errorf("%s: %w", doing, err)
}
