package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	tests := []struct{ args, want string }{
		{"", ""},
		{"--only overlay-cni,fast --set fast=bin,--fast", ""},
		{"--rounds 0", "--rounds 0 is out of range"},
		{"--duration 1ns", "--duration 1ns is out of range"},
		{"--streams 9999", "use 1 to 256"},
		{"--family ipx", "use one of ipv4, ipv6"},
		{"--only nothing", "there is no such set, only host to host, plain VXLAN"},
		{"--set fast", "write NAME=DIR[,FLAG...]"},
		{"fast", `unexpected argument "fast"`},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			_, err := parseOptions(strings.Fields(tt.args), io.Discard)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestQuickLeavesWhatIsSaid(t *testing.T) {
	for args, want := range map[string]options{
		"--quick":                             {rounds: quickRounds, duration: quickDuration},
		"--quick --rounds 7":                  {rounds: 7, duration: quickDuration},
		"--duration 3s --quick":               {rounds: quickRounds, duration: 3 * time.Second},
		"--duration 3s --rounds 2 --quick=no": {rounds: 2, duration: 3 * time.Second},
	} {
		o, err := parseOptions(strings.Fields(strings.ReplaceAll(args, "=no", "=false")), io.Discard)
		if err != nil || o.rounds != want.rounds || o.duration != want.duration {
			t.Errorf("%s: %d rounds of %s, %v", args, o.rounds, o.duration, err)
		}
	}
}
