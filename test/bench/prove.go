package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// patience bounds the wait for a connection on one machine, which takes a millisecond
// if it is possible.
const patience = 2 * time.Second

// prove connects a pod and checks that the host reaches it, so that no plugin is fast
// by not doing the work. In a row with host ports it uses the host port.
func (s *set) prove(r *row) error {
	p := s.host.pods[0]
	if err := s.host.do(func() error { return r.attacher.Add(p) }); err != nil {
		return errors.Join(err, s.host.do(func() error { return r.attacher.Del(p) }))
	}
	err := s.reach(p, strings.HasSuffix(r.Name, withPort))
	if err != nil && strings.HasSuffix(r.Name, withPort) {
		err = errors.New("host ports are not supported")
	}
	return errors.Join(err, s.host.do(func() error { return r.attacher.Del(p) }))
}

func (s *set) reach(p *pod, byPort bool) error {
	var listener net.Listener
	err := p.in(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(containerPort)))
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	to := func() (string, error) { return addressIn(p.in) }
	port := containerPort
	if byPort {
		// The host's own address, by which pods of this host and others reach
		// the port too.
		to, port = func() (string, error) { return addressIn(s.host.do) }, p.hostPort()
	}
	ip, err := to()
	if err != nil {
		return err
	}
	return s.host.do(func() error {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(ip, strconv.Itoa(port)), patience)
		if err != nil {
			return fmt.Errorf("pod %s is connected, but the host does not reach it: %w", p.id, err)
		}
		return c.Close()
	})
}

// addressIn returns a global address in the namespace that do enters.
func addressIn(do func(func() error) error) (string, error) {
	found := ""
	err := do(func() error {
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				found = n.IP.String()
			}
		}
		return err
	})
	if err == nil && found == "" {
		err = errors.New("there is no address beside lo's")
	}
	return found, err
}
