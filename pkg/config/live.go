package config

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/overlay-cni/overlay-cni/internal/filewatch"
)

// Live is a configuration that follows its file and the settings that a registry
// has for all hosts.
type Live struct {
	loader *Loader
	file   *filewatch.Value[string] // nil where there is no file to follow

	mu     sync.Mutex
	first  Config
	last   Config // the last good one
	err    error  // why a newer one was refused
	shared Shared
	seen   [3]string // the texts that last and err were computed from
}

// Watch loads the configuration, and loads it again whenever the file changes. The
// caller closes the Live.
//
// If the file has mistakes, and this host has a network already (see Keep), Watch
// goes on with the configuration that set up the network: then Get returns the
// mistakes beside it, as it does for a file that changes later.
func (l *Loader) Watch() (*Live, error) {
	first, err := l.Load()
	if err != nil {
		kept, ok := l.kept()
		if !ok {
			return nil, err
		}
		first = kept
	}
	live := &Live{loader: l, first: first, last: first}
	if l.path == "" {
		return live, nil
	}
	live.file, err = filewatch.Follow(l.path, first.Text, func() (string, error) {
		data, err := l.read()
		return string(data), err
	})
	return live, err
}

// Get returns the last good configuration. The error beside it says why a newer
// file, or newer settings of the registry, were refused.
func (l *Live) Get() (Config, error) {
	var text string
	var unread error
	if l.file != nil {
		text, unread = l.file.Get()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := [3]string{text, l.shared.Name, string(l.shared.YAML)}; now != l.seen {
		l.seen = now
		l.last, l.err = l.next(text)
	}
	return l.last, errors.Join(unread, l.err)
}

// next returns the configuration that follows from a new file or new settings of the
// registry, or the last good one with an error.
func (l *Live) next(text string) (Config, error) {
	now, err := l.loader.join(l.shared, []byte(text))
	if err == nil {
		err = sameFixed(l.first, now)
	}
	if err != nil {
		return l.last, err
	}
	return now, nil
}

// Share sets what the registry has for all hosts. The file and flags win over it.
func (l *Live) Share(s Shared) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shared = s
}

// Changed gets a value when Get may answer differently than before because of
// the file.
func (l *Live) Changed() <-chan struct{} {
	if l.file == nil {
		return nil
	}
	return l.file.Changed()
}

// Close ends the watching.
func (l *Live) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// sameFixed refuses changes of settings that the daemon reads only when it starts.
func sameFixed(old, now Config) error {
	var errs []error
	for _, s := range []struct {
		key      string
		old, now any
	}{
		{"nodeName", old.NodeName, now.NodeName},
		{"runDir", old.RunDir, now.RunDir},
		{"resync", old.Resync, now.Resync},
		{"registry", old.Registry, now.Registry},
		{"health", old.Health, now.Health},
		{"log", old.Log, now.Log},
	} {
		if !reflect.DeepEqual(s.old, s.now) {
			errs = append(errs, fmt.Errorf("%s changed, which needs a restart of overlayd: restart it, or set %s back", s.key, s.key))
		}
	}
	return errors.Join(errs...)
}
