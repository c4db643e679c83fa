package hosts

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// soakRegistry is the registry of the soak test's hosts.
type soakRegistry interface {
	begin(context.Context, *soak)
	// args are those of a host's daemon.
	args(*lab.Host) []string
	// change is what somebody does to the registry, or befalls it.
	change(context.Context, *soak)
	// moved is told that a host has another address.
	moved(*soak)
	// settle has all hosts in the registry, as they are.
	settle(context.Context, *soak)
	// patience is how long all hosts may take after that to know of each other.
	patience() time.Duration
	// nodes are all hosts as the registry has them after that.
	nodes(*soak) []entry
	// awaitNodes returns when a daemon that has just started has read them.
	awaitNodes(context.Context, *soak, *lab.Host)
}

// soakFile is the nodes file. It lists some of the hosts, some with a second
// subnet.
type soakFile struct {
	absent, larger map[*lab.Host]bool
}

func (r *soakFile) begin(_ context.Context, s *soak) { r.settle(s.t.Context(), s) }

func (*soakFile) args(*lab.Host) []string { return nil }

// change has nodes leave, come back, and get a subnet more or less.
func (r *soakFile) change(_ context.Context, s *soak) {
	h := s.hosts[s.rng.IntN(len(s.hosts))]
	switch {
	case r.absent[h]:
		r.absent[h], r.larger[h] = false, false
	case s.rng.IntN(2) == 0:
		r.absent[h] = true
	default:
		r.larger[h] = !r.larger[h]
	}
	r.moved(s)
}

func (r *soakFile) moved(s *soak) { s.register(r.nodes(s)) }

func (r *soakFile) settle(_ context.Context, s *soak) {
	r.absent, r.larger = map[*lab.Host]bool{}, map[*lab.Host]bool{}
	r.moved(s)
}

func (*soakFile) patience() time.Duration { return healing }

func (r *soakFile) nodes(s *soak) []entry {
	var all []entry
	for i, h := range s.hosts {
		e := entry{h.Name, []netip.Addr{s.wires[h].address}, h.Subnets()}
		if r.larger[h] {
			e.subnets = append(slices.Clone(e.subnets), netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/26", 200+i)))
		}
		if !r.absent[h] {
			all = append(all, e)
		}
	}
	return all
}

func (*soakFile) awaitNodes(context.Context, *soak, *lab.Host) {} // they are read before anything else

// soakEtcd is a real etcd that is killed and comes back, and has settings for
// all hosts. Hosts enter themselves.
type soakEtcd struct {
	server *etcdServer
	down   bool
}

func (r *soakEtcd) begin(ctx context.Context, s *soak) {
	r.server = newEtcd(s.fleet)
	r.share(ctx, "")
}

func (r *soakEtcd) share(ctx context.Context, settings string) {
	r.server.put(ctx, "/overlay-cni/config", "networks: [10.99.0.0/16, \"fd99::/48\"]\n"+settings)
}

func (r *soakEtcd) args(h *lab.Host) []string {
	return []string{"--registry-type", "etcd", "--registry-etcd-endpoints", r.server.url, "--registry-etcd-host-id", h.Name}
}

func (r *soakEtcd) change(ctx context.Context, s *soak) {
	switch {
	case r.down:
		r.server.start()
		r.down = false
	case s.rng.IntN(2) == 0:
		r.server.stop()
		r.down = true
	case s.rng.IntN(3) == 0: // what no host can read is no reason to lose the others
		r.server.put(ctx, rubbish, "{")
	default:
		r.share(ctx, []string{"", "settings: {vxlan: {vni: 11}}\n", "settings: {mtu: 1390}\n"}[s.rng.IntN(3)])
	}
}

// rubbish is the key of an invalid node.
const rubbish = "/overlay-cni/nodes/rubbish"

// remove deletes a key by etcd's JSON gateway.
func (r *soakEtcd) remove(ctx context.Context, s *soak, key string) {
	body, err := json.Marshal(map[string][]byte{"key": []byte(key)})
	s.must(err)
	s.must(probe.Eventually(ctx, func(context.Context) error {
		answer, err := r.server.http.Post(r.server.url+"/v3/kv/deleterange", "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("etcd answers %s", answer.Status)
		}
		return nil
	}))
}

func (*soakEtcd) moved(*soak) {} // hosts say so themselves

func (r *soakEtcd) settle(ctx context.Context, s *soak) {
	if r.down {
		r.server.start()
		r.down = false
	}
	r.remove(ctx, s, rubbish)
	r.share(ctx, "")
}

// patience: who lost etcd tries again after 30 s at the latest, and a request
// may take 10 s.
func (*soakEtcd) patience() time.Duration { return time.Minute }

// nodes have the subnets that they found for themselves, of which no two may be
// the same.
func (*soakEtcd) nodes(s *soak) []entry {
	var all []entry
	owners := map[netip.Prefix]string{}
	for _, h := range s.hosts {
		published, err := nodestate.Read(h.RunDir())
		s.must(err)
		for _, p := range published.Subnets {
			if other, taken := owners[p]; taken {
				s.t.Errorf("%s and %s have %s both", other, h.Name, p)
			}
			owners[p] = h.Name
		}
		all = append(all, entry{h.Name, []netip.Addr{s.wires[h].address}, published.Subnets})
	}
	return all
}

func (*soakEtcd) awaitNodes(ctx context.Context, s *soak, h *lab.Host) {
	s.must(h.Daemon().Log.Wait(ctx, "the tunnel runs over"))
}
