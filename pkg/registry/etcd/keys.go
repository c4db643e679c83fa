package etcd

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// keys makes and parses the keys below a prefix. In byte order the configuration
// comes before the nodes, and the nodes before the subnets. So one range has the
// configuration and the nodes, which all hosts watch, without the subnets, which a
// host reads only when it chooses one.
type keys struct{ prefix string }

func (k keys) config() string { return k.prefix + "/config" }

const nodesDir, subnetsDir = "/nodes/", "/subnets/"

func (k keys) node(name string) string { return k.prefix + nodesDir + name }

// watched is the range of the configuration and all nodes.
func (k keys) watched() (first, end string) {
	return k.config(), clientv3.GetPrefixRangeEnd(k.prefix + nodesDir)
}

// nodeName returns the name in a node's key.
func (k keys) nodeName(key string) (string, bool) { return strings.CutPrefix(key, k.prefix+nodesDir) }

func (k keys) subnets() string { return k.prefix + subnetsDir }

// subnet writes the length after a dash: a slash looks like one more level.
func (k keys) subnet(p netip.Prefix) string {
	return k.subnets() + p.Addr().String() + "-" + strconv.Itoa(p.Bits())
}

// subnetOf returns the prefix in a subnet's key.
func (k keys) subnetOf(key string) (netip.Prefix, bool) {
	text, ok := strings.CutPrefix(key, k.subnets())
	addr, bits, dash := strings.Cut(text, "-")
	p, err := netip.ParsePrefix(addr + "/" + bits)
	return p, ok && dash && err == nil && p == p.Masked()
}

// held reads a subnet's key. Whatever its value is, the subnet is taken.
func (k keys) held(kv *mvccpb.KeyValue) (held, bool) {
	prefix, ok := k.subnetOf(string(kv.Key))
	h := held{prefix: prefix, modified: kv.ModRevision}
	if json.Unmarshal(kv.Value, &h.holder) != nil {
		h.holder = holder{}
	}
	return h, ok
}
