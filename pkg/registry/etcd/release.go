package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Release gives this host's subnets back and removes it from the registry, for
// a host that leaves for good. It ends the registry first.
func (r *Registry) Release(ctx context.Context) error {
	if err := r.Close(); err != nil {
		return err
	}
	return release(ctx, r.opts, r.timing)
}

// Release is the same for a host on which no daemon runs. It is not registered
// already: no error.
func Release(ctx context.Context, o Options) error {
	o, err := o.complete()
	if err == nil && o.HostID == "" {
		o.HostID, err = hostIdentity(machineIDs())
	}
	if err != nil {
		return err
	}
	return release(ctx, o, defaultTiming())
}

func release(ctx context.Context, o Options, t timing) error {
	ctx = clientv3.WithRequireLeader(ctx)
	client, err := connect(ctx, o, t)
	if err != nil {
		return err
	}
	defer client.Close()
	return request(ctx, t, fmt.Sprintf("remove node %q from etcd", o.Node), func(ctx context.Context) error {
		return leave(ctx, client, o)
	})
}

// leave ends the lease, and with it go all keys of the host at once. Keys that
// somebody wrote without a lease are not ours.
func leave(ctx context.Context, client *clientv3.Client, o Options) error {
	key := keys{o.Prefix}.node(o.Node)
	resp, err := client.Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 {
		return err
	}
	kv := resp.Kvs[0]
	rec, err := parseRecord(kv.Value)
	if err != nil {
		return keyError(key, err)
	}
	if rec.Host != o.HostID || kv.Lease == 0 {
		return fmt.Errorf("%w: the key %s was not written by this machine: delete it by hand if its host is gone for good", ErrNameTaken, key)
	}
	_, err = client.Revoke(ctx, clientv3.LeaseID(kv.Lease))
	return err
}
