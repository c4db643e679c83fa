package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Release removes a host from the registry and returns the pod subnets that this
// frees. No daemon may run on the host. If the host is not registered, Release
// returns no subnets and no error.
func Release(ctx context.Context, o Options) ([]netip.Prefix, error) {
	o, err := o.complete()
	if err == nil {
		o, err = o.identified()
	}
	if err != nil {
		return nil, err
	}
	return release(ctx, o, defaultTiming())
}

func release(ctx context.Context, o Options, t timing) (freed []netip.Prefix, err error) {
	ctx = clientv3.WithRequireLeader(ctx)
	client, err := connect(ctx, o, t)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	err = request(ctx, t, fmt.Sprintf("remove node %q from etcd", o.Node), func(ctx context.Context) error {
		freed, err = leave(ctx, client, o)
		return err
	})
	return freed, err
}

// leave ends the host's lease, which deletes all of its keys at once. A key without
// a lease was not written by overlayd.
func leave(ctx context.Context, client *clientv3.Client, o Options) ([]netip.Prefix, error) {
	key := keys{o.Prefix}.node(o.Node)
	resp, err := client.Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 {
		return nil, err
	}
	kv := resp.Kvs[0]
	rec, err := parseRecord(kv.Value)
	if err != nil {
		return nil, keyError(key, err)
	}
	if rec.Host != o.HostID || kv.Lease == 0 {
		return nil, fmt.Errorf("%w: the key %s was not written by this machine: delete it by hand if its host is gone for good", ErrNameTaken, key)
	}
	_, err = client.Revoke(ctx, clientv3.LeaseID(kv.Lease))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil, nil // the lease ended by itself, or by a request whose answer was lost
	}
	return rec.Subnets, err
}
