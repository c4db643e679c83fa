package plugin

import (
	"net/netip"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
)

// An attachment keeps its addresses and its record as long as something may lead
// to the addresses.
func TestClearThatFailsFreesNothing(t *testing.T) {
	kernel, err := bridge.Open()
	if err != nil {
		t.Fatal(err)
	}
	kernel.Close() // so that nothing can be removed
	owner := attachment.Owner{ContainerID: "pod", IfName: "eth0"}
	c := &call{kernel: kernel, store: attachment.Open(t.TempDir(), network.Default), key: owner.Key()}
	addr := netip.MustParseAddr("10.244.1.2")
	first, err := c.store.Lock(c.key)
	if err != nil {
		t.Fatal(err)
	}
	sets, err := ipam.Complete([]ipam.RangeSet{{{Subnet: netip.MustParsePrefix("10.244.1.0/30")}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Reserve(sets, nil); err != nil {
		t.Fatal(err)
	}
	if err := first.Write(attachment.Record{ContainerID: "pod", IfName: "eth0", Addresses: []netip.Addr{addr}}); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := c.store.Lock(c.key)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if err := c.clear(again); err == nil {
		t.Error("it did not fail")
	}
	if record, found, err := again.Record(); !found || err != nil || !c.store.Has(c.key, addr) {
		t.Errorf("left: %+v, %v, %v; reserved: %v", record, found, err, c.store.Has(c.key, addr))
	}
}
