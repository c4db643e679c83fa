package hostport

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
)

// Mapping is a port of the host that leads to a port of a pod. In JSON it is an
// entry of runtimeConfig.portMappings.
type Mapping struct {
	HostPort      uint16   `json:"hostPort"`
	ContainerPort uint16   `json:"containerPort"`
	Protocol      Protocol `json:"protocol"`
	// HostIP is the only address of the host that has the port. The zero Addr
	// stands for all addresses, 0.0.0.0 for all of IPv4, and :: for all of IPv6.
	HostIP netip.Addr `json:"hostIP,omitzero"`
}

// String writes a mapping as container tools do: 127.0.0.1:8080:80/tcp.
func (m Mapping) String() string {
	return fmt.Sprintf("%s:%d/%s", m.host(), m.ContainerPort, m.Protocol)
}

// Port names the host's side alone, for messages: 127.0.0.1:8080/tcp.
func (m Mapping) Port() string { return fmt.Sprintf("%s/%s", m.host(), m.Protocol) }

func (m Mapping) host() string {
	if m.HostIP.IsValid() {
		return netip.AddrPortFrom(m.HostIP, m.HostPort).String()
	}
	return fmt.Sprint(m.HostPort)
}

// Protocol is a transport protocol.
type Protocol string

// The protocols that can be mapped.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// number is the protocol's number in the IP header, 0 if the protocol can't be
// mapped.
func (p Protocol) number() byte {
	switch p {
	case TCP:
		return unix.IPPROTO_TCP
	case UDP:
		return unix.IPPROTO_UDP
	case SCTP:
		return unix.IPPROTO_SCTP
	}
	return 0
}

func protocolOf(number byte) Protocol {
	for _, p := range []Protocol{TCP, UDP, SCTP} {
		if p.number() == number {
			return p
		}
	}
	return Protocol(fmt.Sprint(number))
}

// entryJSON is an entry as a runtime writes it, wide enough to name a wrong
// number.
type entryJSON struct {
	HostPort      int64  `json:"hostPort"`
	ContainerPort int64  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// Parse reads runtimeConfig.portMappings. Entries whose hostPort is 0 or absent
// only declare a port and are left out, as runtimes mean them.
func Parse(data []byte) ([]Mapping, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	var entries []entryJSON
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, unreadable(err)
	}
	var mappings []Mapping
	for i, e := range entries {
		if e.HostPort == 0 {
			continue
		}
		m, err := e.parse()
		if err != nil {
			return nil, fmt.Errorf("runtimeConfig.portMappings[%d]: %w", i, err)
		}
		mappings = append(mappings, m)
	}
	return mappings, checkDistinct(mappings)
}

func unreadable(err error) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return fmt.Errorf("runtimeConfig.portMappings can't be read: %w", err)
	}
	what := strings.TrimSuffix("runtimeConfig.portMappings: "+wrong.Field, ": ")
	return fmt.Errorf(`%s holds %s: write [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"}]`, what, jsonKind(wrong.Value))
}

// jsonKind names a kind of JSON value with its article.
func jsonKind(kind string) string {
	switch kind {
	case "array":
		return "a list"
	case "object":
		return "an object"
	}
	return "a " + kind
}

func (e entryJSON) parse() (Mapping, error) {
	var m Mapping
	var err error
	if m.HostPort, err = parsePort("hostPort", e.HostPort); err != nil {
		return m, err
	}
	if m.ContainerPort, err = parsePort("containerPort", e.ContainerPort); err != nil {
		return m, err
	}
	if m.Protocol = Protocol(strings.ToLower(e.Protocol)); m.Protocol == "" {
		m.Protocol = TCP
	}
	if m.Protocol.number() == 0 {
		return m, fmt.Errorf("protocol %q of host port %d can't be mapped: use tcp, udp or sctp", e.Protocol, e.HostPort)
	}
	m.HostIP, err = parseHostIP(e)
	return m, err
}

func parsePort(key string, v int64) (uint16, error) {
	if v < 1 || v > 65535 {
		return 0, fmt.Errorf("%s %d is no port: use 1 to 65535", key, v)
	}
	return uint16(v), nil
}

func parseHostIP(e entryJSON) (netip.Addr, error) {
	if e.HostIP == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(e.HostIP)
	if err != nil || a.Zone() != "" {
		return a, fmt.Errorf("hostIP %q of host port %d is not an IP address such as 192.0.2.1 or 2001:db8::1: "+
			"leave it out for all addresses of the host", e.HostIP, e.HostPort)
	}
	if a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return a, fmt.Errorf("hostIP %s of host port %d can't be an address of a host: use one of its own", a, e.HostPort)
	}
	return a.Unmap(), nil
}

// checkDistinct refuses a list in which one port of the host leads to two of
// the pod.
func checkDistinct(mappings []Mapping) error {
	for i, m := range mappings {
		for _, other := range mappings[:i] {
			if m.ContainerPort != other.ContainerPort && m.collides(other) {
				return fmt.Errorf("runtimeConfig.portMappings: host port %s leads to container port %d and to %d: remove one",
					m.Port(), other.ContainerPort, m.ContainerPort)
			}
		}
	}
	return nil
}

func (m Mapping) collides(o Mapping) bool {
	if m.HostPort != o.HostPort || m.Protocol != o.Protocol {
		return false
	}
	for _, f := range family.All() {
		if m.in(f) && o.in(f) && m.address() == o.address() {
			return true
		}
	}
	return false
}

// in reports whether the mapping is for addresses of a family.
func (m Mapping) in(f family.Family) bool { return !m.HostIP.IsValid() || family.Of(m.HostIP) == f }

// address returns the only address with the port, or the zero Addr for all addresses.
func (m Mapping) address() netip.Addr {
	if m.HostIP.IsUnspecified() {
		return netip.Addr{}
	}
	return m.HostIP
}

// onLocalhost reports whether the mapping is for 127.0.0.0/8, too.
func (m Mapping) onLocalhost() bool {
	a := m.address()
	return m.in(family.IPv4) && (!a.IsValid() || a.IsLoopback())
}
