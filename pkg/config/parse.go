package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/config/strictyaml"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// The parse functions take the text of one value. Their errors name the value
// and say what would be right. The caller adds the place of the value.

func quote(text string) string { return strictyaml.Quote(text) }

// number parses decimal digits without a sign or leading zeros: 010 is 8 in
// YAML 1.1, 10 on most command lines, and here a mistake.
func number(text string, low, high uint64) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < low || n > high || strconv.FormatUint(n, 10) != text {
		return 0, fmt.Errorf("%s: expected a whole number from %d to %d", quote(text), low, high)
	}
	return n, nil
}

// maxVNI is the largest VNI, which has 24 bits. VNI 0 is not allowed, because
// programs show 0 for a device without a VNI.
const maxVNI = 1<<24 - 1

func parseVNI(text string) (uint32, error) {
	n, err := number(text, 1, maxVNI)
	return uint32(n), err
}

func parsePort(text string) (uint16, error) {
	n, err := number(text, 1, 1<<16-1)
	return uint16(n), err
}

// auto is how some settings leave a choice to the kernel.
const auto = "auto"

func parsePorts(text string) (tunnel.PortRange, error) {
	if text == auto {
		return tunnel.PortRange{}, nil
	}
	low, high, _ := strings.Cut(text, "-")
	from, err := parsePort(low)
	to, err2 := parsePort(high)
	if err != nil || err2 != nil || from >= to {
		return tunnel.PortRange{}, fmt.Errorf("%s: expected auto, or the first port and the one after the last, such as 49152-65535", quote(text))
	}
	return tunnel.PortRange{Low: from, High: to}, nil
}

func parseTTL(text string) (tunnel.TTL, error) {
	switch text {
	case auto:
		return 0, nil
	case "inherit":
		return tunnel.InheritTTL, nil
	}
	n, err := number(text, 1, 255)
	if err != nil {
		return 0, fmt.Errorf("%s: expected auto, inherit, or 1 to 255", quote(text))
	}
	return tunnel.TTL(n), nil
}

// parseTOS refuses numbers with bits of ECN, because the kernel replaces these. One
// of them, 1, is the kernel's word for inherit.
func parseTOS(text string) (tunnel.TOS, error) {
	if text == tunnel.InheritTOS.String() {
		return tunnel.InheritTOS, nil
	}
	n, err := number(text, 0, 252)
	if err != nil || n%4 != 0 {
		return 0, fmt.Errorf("%s: expected inherit, or a multiple of 4 from 0 to 252", quote(text))
	}
	return tunnel.TOS(n), nil
}

// minMTU is the size that every IPv4 host must be able to receive (RFC 791). IPv6
// needs 1280. This package can't check that, because it doesn't know the families of
// the pod subnets.
const (
	minMTU = 576
	maxMTU = 65535
)

func parseMTU(text string) (int, error) {
	n, err := number(text, 0, maxMTU)
	if err != nil || n != 0 && n < minMTU {
		return 0, fmt.Errorf("%s: expected 0 (from the underlay), or %d to %d", quote(text), minMTU, maxMTU)
	}
	return int(n), nil
}

func parseBool(text string) (bool, error) {
	switch text {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%s: expected true or false", quote(text))
}

// parseNot is parseBool for a setting whose field has the opposite meaning.
func parseNot(text string) (bool, error) {
	v, err := parseBool(text)
	return !v, err
}

// minResync refuses a wrong unit: 30ms would use a whole core.
const minResync = time.Second

func parseResync(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < minResync {
		return 0, fmt.Errorf("%s: expected a duration of at least %s, such as 30s or 5m", quote(text), minResync)
	}
	return d, nil
}

// oneOf returns a function that parses one of the values by its printed form.
func oneOf[T comparable](words ...T) func(string) (T, error) {
	return func(text string) (none T, err error) {
		names := make([]string, len(words))
		for i, w := range words {
			names[i] = fmt.Sprint(w)
			if text == names[i] {
				return w, nil
			}
		}
		last := len(names) - 1
		return none, fmt.Errorf("%s: expected %s or %s", quote(text), strings.Join(names[:last], ", "), names[last])
	}
}

// parseFamily returns the zero Family for auto.
func parseFamily(text string) (family.Family, error) {
	word, err := oneOf(auto, family.IPv4.Proc(), family.IPv6.Proc())(text)
	switch {
	case err != nil || word == auto:
		return 0, err
	case word == family.IPv4.Proc():
		return family.IPv4, nil
	}
	return family.IPv6, nil
}

func parseLevel(text string) (slog.Level, error) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if text == strings.ToLower(level.String()) {
			return level, nil
		}
	}
	return 0, fmt.Errorf("%s: expected debug, info, warn or error", quote(text))
}

// parseNodeName accepts the empty name too. It stands for the host name, which
// resolveName looks up.
func parseNodeName(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	return text, registry.CheckName(text)
}

// parsePath accepts relative paths. They start from the working directory.
func parsePath(text string) (string, error) {
	if text == "" || strings.ContainsFunc(text, isControl) {
		return "", fmt.Errorf("%s: expected the path of a file", quote(text))
	}
	return filepath.Clean(text), nil
}

// parseRunDir refuses relative paths: the plugin has to find the same
// directory and runs in another working directory.
func parseRunDir(text string) (string, error) {
	if !filepath.IsAbs(text) || strings.ContainsFunc(text, isControl) || filepath.Clean(text) == "/" {
		return "", fmt.Errorf("%s: expected the absolute path of a directory for overlay-cni alone, such as /run/overlay-cni", quote(text))
	}
	return filepath.Clean(text), nil
}

// parseConfDir accepts the empty text for no directory, so that a flag can override
// the file's.
func parseConfDir(text string) (string, error) {
	if text != "" && (!filepath.IsAbs(text) || strings.ContainsFunc(text, isControl)) {
		return "", fmt.Errorf("%s: expected an absolute path, such as %s", quote(text), cnifiles.DefaultConfDir)
	}
	return text, nil
}

func parseConfName(text string) (string, error) {
	if err := cnifiles.CheckName(text); err != nil {
		return "", fmt.Errorf("%s: %w", quote(text), err)
	}
	return text, nil
}

// minLease is well above the time that a restart of etcd takes.
const minLease = time.Minute

func parseLease(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < minLease {
		return 0, fmt.Errorf("%s: expected a duration of at least %s, such as 1h or 24h", quote(text), minLease)
	}
	return d, nil
}

func parseEndpoint(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return "", fmt.Errorf("%s: expected the URL of an etcd member, such as https://192.168.77.10:2379", quote(text))
	}
	return text, nil
}

func parsePrefix(text string) (string, error) {
	if !strings.HasPrefix(text, "/") || strings.HasSuffix(text, "/") || strings.ContainsFunc(text, isControl) {
		return "", fmt.Errorf("%s: expected a prefix for keys, such as /overlay-cni", quote(text))
	}
	return text, nil
}

func parseWord(text string) (string, error) {
	if text == "" || strings.ContainsFunc(text, isControl) {
		return "", fmt.Errorf("%s: expected a word", quote(text))
	}
	return text, nil
}

// parseListen accepts an empty host for all addresses of the machine, and the empty
// text for no address.
func parseListen(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	host, port, err := net.SplitHostPort(text)
	if err == nil && host != "" {
		_, err = netip.ParseAddr(host)
	}
	if err == nil {
		_, err = parsePort(port)
	}
	if err != nil {
		return "", fmt.Errorf("%s: expected an address and a port, such as 127.0.0.1:9479 or :9479", quote(text))
	}
	return text, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// maxDevice is IFNAMSIZ without the zero at the end.
const maxDevice = 15

// parseDevice follows the kernel's dev_valid_name. It also refuses the percent sign,
// with which the kernel numbers new devices, and the names all and default, which are
// directories beside the devices' directories in /proc/sys/net.
func parseDevice(text string) (string, error) {
	const rule = "expected a device name: 1 to 15 characters without '/', ':', '%' and white space"
	switch {
	case text == "", len(text) > maxDevice, strings.ContainsFunc(text, notInDevice), hasLatin1Space(text):
		return "", fmt.Errorf("%s: %s", quote(text), rule)
	case text == ".", text == "..", text == "all", text == "default":
		return "", fmt.Errorf("%s: the kernel uses this name for something else: choose another device name", quote(text))
	}
	return text, nil
}

func notInDevice(r rune) bool { return isControl(r) || strings.ContainsRune(" /:%", r) }

// hasLatin1Space looks for the byte 0xa0, which may be part of a letter in UTF-8. The
// kernel reads names as Latin-1, where 0xa0 is a no-break space.
func hasLatin1Space(text string) bool { return strings.IndexByte(text, 0xa0) >= 0 }

func parseUnderlay(text string) (Underlay, error) {
	if text == underlayAuto {
		return Underlay{}, nil
	}
	if target, ok := strings.CutPrefix(text, reaches); ok {
		if _, err := netip.ParseAddr(target); err != nil {
			return Underlay{}, fmt.Errorf("%s: expected an address of another machine, such as %s192.168.77.2", quote(text), reaches)
		}
		addr, err := parseAddr(target)
		return Underlay{Reaches: addr}, err
	}
	if _, err := netip.ParseAddr(text); err == nil {
		addr, err := parseAddr(text)
		return Underlay{Address: addr}, err
	}
	name, err := parseDevice(text)
	if err != nil {
		return Underlay{}, fmt.Errorf("%s: expected auto, the name of an interface, an address, or to:ADDRESS", quote(text))
	}
	return Underlay{Interface: name}, nil
}

func parseAddr(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s: expected an address such as 192.168.77.1", quote(text))
	}
	return addr, registry.CheckAddress(addr)
}

func parseNetwork(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
			return netip.Prefix{}, fmt.Errorf("%s: expected a network: write %s/%d for this one address", quote(text), a, a.BitLen())
		}
		return netip.Prefix{}, fmt.Errorf("%s: expected a network such as 192.168.0.0/16", quote(text))
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%s: expected a network in IPv4 form, not IPv4 in IPv6", quote(text))
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s: expected a network without host bits: write %s", quote(text), p.Masked())
	}
	return p, nil
}
