package lab

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
)

// logLimit bounds a log in memory: far more than any test or demo reads.
const logLimit = 1 << 20

// Log keeps what a program writes and tells those who wait for it.
type Log struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{} // closed, and replaced, by each Write
}

func newLog() *Log { return &Log{changed: make(chan struct{})} }

// Write appends p. At the limit, the older half is dropped.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if len(l.text) > logLimit {
		l.text = bytes.Clone(l.text[len(l.text)-logLimit/2:])
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return len(p), nil
}

func (l *Log) String() string {
	text, _ := l.state()
	return text
}

func (l *Log) state() (text string, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text), l.changed
}

// Tail returns the last n lines.
func (l *Log) Tail(n int) []string {
	lines := strings.Split(strings.TrimRight(l.String(), "\n"), "\n")
	return lines[max(0, len(lines)-n):]
}

// Wait returns once the log contains text.
func (l *Log) Wait(ctx context.Context, text string) error {
	for {
		have, changed := l.state()
		if strings.Contains(have, text) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %q in the log: %w; it ends with: %s", text, context.Cause(ctx), strings.Join(l.Tail(3), " / "))
		}
	}
}
