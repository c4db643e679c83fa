package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/rpc"
	"strings"
	"syscall"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// Client asks a guest. Its methods may be called from several goroutines.
type Client struct {
	rpc *rpc.Client
}

// Dial takes the other end of a guest's line.
func Dial(line io.ReadWriteCloser) *Client { return &Client{rpc.NewClient(line)} }

// Here is a guest without a machine: it serves requests in the calling process.
func Here() *Client {
	near, far := net.Pipe()
	go Serve(far)
	return Dial(near)
}

// Close turns the machine off.
func (c *Client) Close() error { return c.rpc.Close() }

// ErrGone is for a guest that ended.
var ErrGone = errors.New("the machine has ended")

// ask calls a method of Service and waits for the answer as long as ctx lasts.
func ask[R any](ctx context.Context, c *Client, method string, args any) (R, error) {
	var reply R
	call := c.rpc.Go(serviceName+"."+method, args, &reply, make(chan *rpc.Call, 1))
	select {
	case <-ctx.Done():
		var none R // the other one may still be written to
		return none, fmt.Errorf("the machine doesn't answer: %s: %w", method, context.Cause(ctx))
	case <-call.Done:
	}
	var answer rpc.ServerError
	if call.Error != nil && !errors.As(call.Error, &answer) {
		return reply, fmt.Errorf("%w: %w", ErrGone, call.Error)
	}
	return reply, call.Error
}

func tell(ctx context.Context, c *Client, method string, args any) error {
	_, err := ask[Nothing](ctx, c, method, args)
	return err
}

// Hello waits until the machine answers.
func (c *Client) Hello(ctx context.Context) error { return tell(ctx, c, "Hello", Nothing{}) }

// Exec runs a program and returns its output and status, even if it failed.
func (c *Client) Exec(ctx context.Context, cmd Command) (Output, error) {
	return ask[Output](ctx, c, "Run", cmd)
}

// Run runs a program that must succeed, and returns its output.
func (c *Client) Run(ctx context.Context, args ...string) (string, error) {
	out, err := c.Exec(ctx, Command{Args: args})
	if err == nil && out.Code != 0 {
		err = fmt.Errorf("exit code %d: %s", out.Code, bytes.TrimSpace(append(out.Stdout, out.Stderr...)))
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return string(out.Stdout), nil
}

// WriteFile replaces a file of the guest.
func (c *Client) WriteFile(ctx context.Context, path, text string) error {
	return tell(ctx, c, "WriteFile", File{path, []byte(text)})
}

// Start starts a daemon.
func (c *Client) Start(ctx context.Context, args ...string) error {
	return tell(ctx, c, "Start", Command{Args: args})
}

// End ends a daemon by a signal and tells how it ended.
func (c *Client) End(ctx context.Context, daemon string, sig syscall.Signal) (string, error) {
	return ask[string](ctx, c, "End", Signal{daemon, sig})
}

// Serve starts servers for all probes.
func (c *Client) Serve(ctx context.Context, where Servers) error {
	return tell(ctx, c, "Serve", where)
}

// ServeSCTP starts mirrors by SCTP.
func (c *Client) ServeSCTP(ctx context.Context, where Servers) error {
	return tell(ctx, c, "ServeSCTP", where)
}

// Ping is a round trip by ICMP.
func (c *Client) Ping(ctx context.Context, t Target) (time.Duration, error) {
	return ask[time.Duration](ctx, c, "Ping", t)
}

// Echo is a round trip of an unfragmented datagram. It reports whether the guest's
// kernel refused the datagram as too large.
func (c *Client) Echo(ctx context.Context, t Target) (refused string, err error) {
	return ask[string](ctx, c, "Echo", t)
}

// Connect tells which address a mirror sees by TCP.
func (c *Client) Connect(ctx context.Context, t Target) (netip.Addr, error) {
	return ask[netip.Addr](ctx, c, "Connect", t)
}

// ConnectSCTP tells which address a mirror sees by SCTP.
func (c *Client) ConnectSCTP(ctx context.Context, t Target) (netip.Addr, error) {
	return ask[netip.Addr](ctx, c, "ConnectSCTP", t)
}

// Transfer sends t.Size bytes by TCP and tells how long they took.
func (c *Client) Transfer(ctx context.Context, t Target) (time.Duration, error) {
	return ask[time.Duration](ctx, c, "Transfer", t)
}

// StartStream starts a stream and returns its number.
func (c *Client) StartStream(ctx context.Context, t Target) (int, error) {
	return ask[int](ctx, c, "StartStream", t)
}

// StopStream ends a stream.
func (c *Client) StopStream(ctx context.Context, number int) (probe.Counts, error) {
	return ask[probe.Counts](ctx, c, "StopStream", number)
}

// Get asks an HTTP server of the guest.
func (c *Client) Get(ctx context.Context, url string) (Answer, error) {
	return ask[Answer](ctx, c, "Get", url)
}
