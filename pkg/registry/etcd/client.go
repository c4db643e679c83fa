package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// connect makes a client. It reads the files anew: password and authorities may
// have been replaced since the last one. Without a user it succeeds before
// there is a connection.
func connect(ctx context.Context, o Options, t timing) (*clientv3.Client, error) {
	c := clientv3.Config{
		Context:   ctx,
		Endpoints: o.Endpoints,
		// Of logging in, which New does.
		DialTimeout:          t.request,
		DialKeepAliveTime:    t.heartbeat,
		DialKeepAliveTimeout: t.heartbeat,
		// What matters comes back as an error, and we log it.
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

// load reads the authorities now, and the client's certificate for every
// handshake, so that a renewed one is used by connections that are made anew.
func (t TLS) load() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the authorities of etcd's certificates: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the file %s for authorities of etcd's certificates holds none: expected PEM blocks of type CERTIFICATE", t.CAFile)
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

// request does one thing in limited time, and says what and why if it failed.
func request(ctx context.Context, t timing, doing string, do func(context.Context) error) error {
	var r reason
	limited, cancel := context.WithTimeout(context.WithValue(ctx, reasonKey{}, &r), t.request)
	defer cancel()
	return r.explain(ctx, t, doing, do(limited))
}

// reason is what the last attempt of a request failed with. The client retries
// until the time is over, and then returns only that it is.
type reason struct{ last error }

type reasonKey struct{}

// noteReason runs once for each attempt, inside of what retries.
func noteReason(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if r, ok := ctx.Value(reasonKey{}).(*reason); ok && err != nil {
		r.last = err
	}
	return err
}

// explain leaves the end of ctx itself as it is: nobody wants to read of it.
func (r *reason) explain(ctx context.Context, t timing, doing string, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer in %s", t.request)
		if r.last != nil {
			err = fmt.Errorf("%w: %s", err, status.Convert(r.last).Message())
		}
	}
	return fmt.Errorf("%s: %w", doing, err)
}
