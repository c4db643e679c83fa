package lab

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLogTail(t *testing.T) {
	l := newLog()
	for _, part := range []string{"one\ntw", "o\n", "three\n"} {
		_, _ = l.Write([]byte(part))
	}
	if got := l.Tail(2); !slices.Equal(got, []string{"two", "three"}) {
		t.Errorf("got %q", got)
	}
	if got := l.Tail(9); len(got) != 3 {
		t.Errorf("got %q", got)
	}
}

func TestLogKeepsTheEnd(t *testing.T) {
	l := newLog()
	line := []byte(strings.Repeat("x", 1023) + "\n")
	for range 2 * logLimit / len(line) {
		_, _ = l.Write(line)
	}
	_, _ = l.Write([]byte("end\n"))
	if n := len(l.String()); n > logLimit || n < logLimit/2 {
		t.Errorf("%d bytes are kept", n)
	}
	if got := l.Tail(1); got[0] != "end" {
		t.Errorf("got %q", got)
	}
}

func TestLogWait(t *testing.T) {
	l := newLog()
	go func() {
		_, _ = l.Write([]byte("almost "))
		_, _ = l.Write([]byte("ready\n"))
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := l.Wait(ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := l.Wait(ctx, "never"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
