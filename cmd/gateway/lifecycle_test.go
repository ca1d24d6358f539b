package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
)

// recorder notes in which order tasks end.
type recorder struct {
	mu    sync.Mutex
	ended []string
}

func (r *recorder) task(name string) task {
	return task{name, func(ctx context.Context) error {
		<-ctx.Done()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ended = append(r.ended, name)
		return nil
	}}
}

func TestPhasesStopInOrder(t *testing.T) {
	t.Parallel()
	var r recorder
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runPhases(ctx, []phase{{r.task("smtp")}, {r.task("queue")}, {r.task("imap")}, {r.task("store")}}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"smtp", "queue", "imap", "store"}; !slices.Equal(r.ended, want) {
		t.Errorf("ended in order %v, want %v", r.ended, want)
	}
}

func TestOneFailureStopsAll(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(context.Context) error{
		"disk gone":       func(context.Context) error { return errors.New("disk gone") },
		"ended by itself": func(context.Context) error { return nil },
	} {
		var r recorder
		err := runPhases(t.Context(), []phase{{r.task("smtp")}, {{"store", fail}}})
		if err == nil || !strings.Contains(err.Error(), name) || !strings.HasPrefix(err.Error(), "store") {
			t.Errorf("%s: got %v", name, err)
		}
		if !slices.Equal(r.ended, []string{"smtp"}) {
			t.Errorf("%s: the others ended as %v", name, r.ended)
		}
	}
}
