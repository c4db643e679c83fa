package nl

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// loopback is the index of lo in every namespace.
const loopback = 1

func dial(t *testing.T) (*Conn, *sandbox.Netns) {
	t.Helper()
	ns := sandboxtest.NewNetns(t)
	var conn *Conn
	sandboxtest.Do(t, ns, func() (err error) { conn, err = Dial(unix.NETLINK_ROUTE); return err })
	t.Cleanup(func() { _ = conn.Close() })
	return conn, ns
}

// address is a request about an address of lo.
func address(typ, flags uint16, ip string) *Request {
	a := netip.MustParseAddr(ip)
	body := Attrs(native.AppendUint32(Attrs{unix.AF_INET, 32, 0, 0}, loopback))
	return &Request{Type: typ, Flags: flags, Body: body.Addr(unix.IFA_LOCAL, a), Op: fmt.Sprintf("change address %s", a)}
}

func add(ip string) *Request {
	return address(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ip)
}

func remove(ip string) *Request { return address(unix.RTM_DELADDR, 0, ip) }

// listAddresses is the request for all IPv4 addresses.
func listAddresses() Request {
	return Request{Type: unix.RTM_GETADDR, Body: Attrs{unix.AF_INET, 0, 0, 0, 0, 0, 0, 0}, Op: "list addresses"}
}

// The kernel goes on after an operation that it refuses, and each operation
// holds the error that is its own.
func TestExecTellsTheErrorsApart(t *testing.T) {
	conn, _ := dial(t)
	tests := []struct {
		r     *Request
		errno unix.Errno
		done  bool
	}{
		{add("10.1.0.1"), 0, true},
		{add("10.1.0.1"), unix.EEXIST, false},
		{add("10.1.0.1").Tolerate(unix.EEXIST), 0, false},
		{add("10.1.0.2").Tolerate(unix.EEXIST), 0, true},
		{remove("10.1.0.3"), unix.EADDRNOTAVAIL, false},
		{remove("10.1.0.3").Tolerate(unix.ESRCH, unix.EADDRNOTAVAIL), 0, false},
		{remove("10.1.0.3").Tolerate(unix.EEXIST), unix.EADDRNOTAVAIL, false},
		{remove("10.1.0.1"), 0, true},
	}
	var requests []*Request
	for _, tt := range tests {
		if tt.r.Done() || tt.r.Err() == nil {
			t.Error("a request succeeded before it was sent")
		}
		requests = append(requests, tt.r)
	}
	err := conn.Exec(requests...)
	want := []string{
		"change address 10.1.0.1: file exists",
		"change address 10.1.0.3: cannot assign requested address",
		"change address 10.1.0.3: cannot assign requested address",
	}
	// Newer kernels add an explanation.
	withoutHint := func(line, want string) bool { return line == want || strings.HasPrefix(line, want+" (kernel: ") }
	if lines := strings.Split(fmt.Sprint(err), "\n"); !slices.EqualFunc(lines, want, withoutHint) {
		t.Errorf("got the errors %q, want %q", lines, want)
	}
	for i, tt := range tests {
		if tt.r.Done() != tt.done {
			t.Errorf("%d: done is %t", i, tt.r.Done())
		}
		var refused *Error
		switch err := tt.r.Err(); {
		case tt.errno == 0 && err != nil:
			t.Errorf("%d: %v", i, err)
		case tt.errno != 0 && (!errors.As(err, &refused) || refused.Errno != tt.errno || !errors.Is(err, tt.errno)):
			t.Errorf("%d: got %v, want %v", i, err, tt.errno)
		}
	}
}

// There may be more operations than answers fit into the socket's buffer.
func TestExecOfMany(t *testing.T) {
	for _, count := range []int{0, 1, chunk - 1, chunk, chunk + 1, 5*chunk + 7} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			conn, _ := dial(t)
			requests := make([]*Request, count)
			for i := range requests {
				ip := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String()
				if requests[i] = add(ip); i%3 == 2 {
					requests[i] = remove(ip) // is not there
				}
			}
			for round := range 2 {
				err := conn.Exec(requests...)
				if refused := count > 2 || round > 0 && count > 0; (err != nil) != refused {
					t.Errorf("round %d: %v", round, err)
				}
				for i, r := range requests {
					want := error(nil)
					switch {
					case i%3 == 2:
						want = unix.EADDRNOTAVAIL
					case round > 0:
						want = unix.EEXIST
					}
					if !errors.Is(r.Err(), want) || r.Done() != (want == nil) {
						t.Fatalf("round %d, operation %d: %v, not %v", round, i, r.Err(), want)
					}
				}
			}
			listed := 0
			err := conn.Dump(listAddresses(), func(m Message) error {
				if ip := m.Attrs(unix.SizeofIfAddrmsg).Get(unix.IFA_LOCAL).Addr(); !ip.IsLoopback() {
					listed++
				}
				return nil
			})
			if err != nil || listed != count-count/3 {
				t.Errorf("%d addresses are listed (%v), want %d", listed, err, count-count/3)
			}
		})
	}
}

// Describe is called only for an error.
func TestDescribe(t *testing.T) {
	conn, _ := dial(t)
	described := 0
	describe := func(r *Request) string {
		described++
		return fmt.Sprint("request of type ", r.Type)
	}
	good, bad := add("10.1.0.1"), remove("10.1.0.2")
	good.Describe, bad.Describe = describe, describe
	if err := conn.Exec(good, bad); !strings.HasPrefix(fmt.Sprint(err), "request of type 21: cannot assign requested address") || described != 1 {
		t.Errorf("got %v and described %d requests", err, described)
	}
}

func TestHint(t *testing.T) {
	conn, _ := dial(t)
	body := Attrs{unix.AF_INET, 16, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}.
		Addr(unix.RTA_DST, netip.MustParseAddr("10.2.0.0")).
		Addr(unix.RTA_GATEWAY, netip.MustParseAddr("10.9.0.1"))
	err := conn.Exec(&Request{Type: unix.RTM_NEWROUTE, Flags: unix.NLM_F_CREATE, Body: body, Op: "add route"})
	var refused *Error
	if !errors.As(err, &refused) || refused.Hint == "" || !strings.Contains(err.Error(), "(kernel: "+refused.Hint+")") {
		t.Errorf("a route by a next hop that is nowhere: %v", err)
	}
}

func TestGet(t *testing.T) {
	conn, _ := dial(t)
	link := func(index uint32) Request {
		body := native.AppendUint32(make(Attrs, 4), index)
		return Request{Type: unix.RTM_GETLINK, Body: append(body, make(Attrs, 8)...), Op: "look up a link"}
	}
	if m, err := conn.Get(link(99)); !errors.Is(err, unix.ENODEV) || m.Body != nil {
		t.Errorf("got %v, %v", m, err)
	}
	// The refusal is not taken for an answer to the next question.
	m, err := conn.Get(link(loopback))
	if err != nil || m.Type != unix.RTM_NEWLINK || m.Attrs(unix.SizeofIfInfomsg).Get(unix.IFLA_IFNAME).Text() != "lo" {
		t.Errorf("got %v, %v", m, err)
	}
}

func TestDumpIsRefused(t *testing.T) {
	conn, _ := dial(t)
	r := Request{Type: unix.RTM_GETRULE + 1000, Op: "list nothing"}
	err := conn.Dump(r, func(Message) error { t.Error("something is listed"); return nil })
	if !errors.Is(err, unix.EOPNOTSUPP) || !strings.HasPrefix(err.Error(), "list nothing: ") {
		t.Errorf("got %v", err)
	}
}

func TestDumpEndsWithAnErrorOfEach(t *testing.T) {
	conn, _ := dial(t)
	if err := conn.Exec(add("10.1.0.1")); err != nil {
		t.Fatal(err)
	}
	enough, calls := errors.New("enough"), 0
	if err := conn.Dump(listAddresses(), func(Message) error { calls++; return enough }); !errors.Is(err, enough) || calls != 1 {
		t.Errorf("got %v after %d calls", err, calls)
	}
	if err := conn.Exec(add("10.1.0.2")); err != nil {
		t.Error(err)
	}
}

func TestClosed(t *testing.T) {
	conn, _ := dial(t)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	r := add("10.1.0.1")
	if err := conn.Exec(r); !errors.Is(err, unix.EBADF) || !errors.Is(r.Err(), unix.EBADF) || r.Done() {
		t.Errorf("Exec: %v, %v", err, r.Err())
	}
	if _, err := conn.Get(listAddresses()); !errors.Is(err, unix.EBADF) {
		t.Errorf("Get: %v", err)
	}
	if err := conn.Dump(listAddresses(), nil); !errors.Is(err, unix.EBADF) {
		t.Errorf("Dump: %v", err)
	}
	if err := conn.Close(); !errors.Is(err, unix.EBADF) {
		t.Errorf("Close: %v", err)
	}
}

func TestRaiseBuffers(t *testing.T) {
	conn, _ := dial(t)
	conn.RaiseBuffers(1<<20, 1<<20)
	for _, option := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
		size, err := unix.GetsockoptInt(conn.FD(), unix.SOL_SOCKET, option)
		if err != nil || size < 1<<18 {
			t.Errorf("a buffer has %d bytes (%v)", size, err)
		}
	}
}
