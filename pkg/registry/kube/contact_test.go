package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An outage lasts, while its requests have timeouts and ports of their own. The rounds
// and the log must not take each attempt for news.
func TestAnOutageHasOneText(t *testing.T) {
	for _, tt := range []struct{ server, local string }{{"192.168.77.254:6443", "192.168.77.1"}, {"[fd77::254]:6443", "fd77::1"}} {
		var log bytes.Buffer
		c := contact{host: "https://" + tt.server, log: slog.New(slog.NewTextHandler(&log, nil))}
		attempt := func(number int, err error) bool {
			return c.failed(&url.Error{Op: "Get", URL: fmt.Sprintf("%s/api/v1/nodes?timeoutSeconds=%d", c.host, number), Err: &net.OpError{
				Op: "read", Net: "tcp", Err: err, Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(tt.server)),
				Source: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(tt.local), uint16(number))),
			}})
		}
		for i, want := range []struct {
			err     error
			changed bool
		}{{unix.ECONNREFUSED, true}, {unix.ECONNREFUSED, false}, {unix.ECONNRESET, true}, {unix.ECONNRESET, false}, {context.Canceled, false}} {
			if got := attempt(40000+i, want.err); got != want.changed {
				t.Errorf("attempt %d: %v is news: %v", i, c.trouble(), got)
			}
		}
		want := "the API server " + c.host + " has not sent the nodes since " + c.since.Format(time.TimeOnly) +
			": read tcp " + tt.server + ": connection reset by peer"
		if err := c.trouble(); err == nil || err.Error() != want || !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("the outage is logged %d times:\n%s", n, &log)
		}
	}
}
