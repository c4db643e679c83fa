package config

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/overlay-cni/overlay-cni/internal/filewatch"
)

// Live is a configuration that follows its file.
type Live struct {
	first Config // where there is no file to follow
	file  *filewatch.Value[Config]
}

// Watch is Load, again whenever the file changed. Close the Live in the end.
func (l *Loader) Watch() (*Live, error) {
	first, err := l.Load()
	if err != nil || l.path == "" {
		return &Live{first: first}, err
	}
	file, err := filewatch.Open(l.path, func() (Config, error) {
		now, err := l.Load()
		if err != nil {
			return Config{}, err
		}
		return now, sameFixed(first, now)
	})
	return &Live{first: first, file: file}, err
}

// Get returns the configuration of the last good file, and beside it why the
// file as it is now was refused.
func (l *Live) Get() (Config, error) {
	if l.file == nil {
		return l.first, nil
	}
	return l.file.Get()
}

// Changed gets a value when Get may answer differently than before.
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

// sameFixed refuses changes of what the daemon looks at when it starts.
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
			errs = append(errs, fmt.Errorf("%s changed, which a running overlayd can't follow: restart it, or set %s back", s.key, s.key))
		}
	}
	return errors.Join(errs...)
}
