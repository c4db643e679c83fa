package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
)

const (
	// poll is how often the apiserver is asked whether it is ready; asking costs
	// it a millisecond.
	poll = 50 * time.Millisecond
	// patience is how long one answer may take: a frozen server gives none.
	patience = time.Second
)

// AwaitReady returns once the apiserver is ready, for which it needs its etcd. It
// returns an error when one of them, or ctx, has ended.
func (s *Server) AwaitReady(ctx context.Context) error {
	config, err := s.Config(Admin)
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("make a client for kube-apiserver: %w", err)
	}
	defer client.CloseIdleConnections()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		notYet := s.ask(ctx, client)
		if notYet == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver is not ready: %w: %w; %s", context.Cause(ctx), notYet, s.APIServer.lastWords())
		case <-s.Etcd.done:
			return s.Etcd.ended()
		case <-s.APIServer.done:
			return s.APIServer.ended()
		}
	}
}

func (s *Server) ask(ctx context.Context, client *http.Client) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz answers %s", answer.Status)
	}
	return nil
}

func (p *Process) ended() error {
	err := p.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	return fmt.Errorf("%s has ended: %w; %s", p.name, err, p.lastWords())
}
