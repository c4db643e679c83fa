package registry

import (
	"errors"
	"testing"
	"time"
)

// fake is a registry that takes reports.
type fake struct {
	changed chan struct{}
	closed  bool
}

func (f *fake) Nodes() ([]Node, error)   { return []Node{{Name: "a"}}, nil }
func (f *fake) Changed() <-chan struct{} { return f.changed }
func (f *fake) ReportNetwork(Report)     {}
func (f *fake) Close() error             { f.closed = true; return nil }

func TestLate(t *testing.T) {
	const patient = 20 * time.Second
	inner := &fake{changed: make(chan struct{}, 1)}
	attempts := make(chan error)
	l := newLate(func() (Closable, error) {
		if err := <-attempts; err != nil {
			return nil, err
		}
		return inner, nil
	}, errors.New("no file"), time.Millisecond)
	changed := func() {
		t.Helper()
		select {
		case <-l.Changed():
		case <-time.After(patient):
			t.Fatal("no signal")
		}
	}
	if _, ok := As[Reporter](l); ok {
		t.Error("takes reports before it is open")
	}
	if nodes, err := l.Nodes(); !errors.Is(err, ErrNotReady) || err.Error() != ErrNotReady.Error()+": no file" || nodes != nil {
		t.Errorf("got %v, %v", nodes, err)
	}
	attempts <- errors.New("no file") // nothing new
	attempts <- errors.New("a mistake")
	changed()
	if _, err := l.Nodes(); !errors.Is(err, ErrNotReady) || err.Error() != ErrNotReady.Error()+": a mistake" {
		t.Errorf("got %v", err)
	}
	attempts <- nil
	changed()
	if nodes, err := l.Nodes(); err != nil || len(nodes) != 1 {
		t.Errorf("got %v, %v", nodes, err)
	}
	if r, ok := As[Reporter](l); !ok || r != inner {
		t.Errorf("its reporter is %v", r)
	}
	if _, ok := As[Sharer](l); ok {
		t.Error("offers what the registry doesn't")
	}
	inner.changed <- struct{}{}
	changed()
	if err := l.Close(); err != nil || !inner.closed {
		t.Errorf("closed: %v, %v", inner.closed, err)
	}
}

func TestLateIsClosedBeforeItIsOpen(t *testing.T) {
	l := NewLate(func() (Closable, error) { return nil, errors.New("no file") }, errors.New("no file"))
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
