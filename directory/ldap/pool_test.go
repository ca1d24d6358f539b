package ldap

import (
	"context"
	"testing"
	"time"
)

// TestWhoGaveUpGetsNoConnection: a caller that gave up before asks nothing, also
// where a connection is free and the answer would be quick.
func TestWhoGaveUpGetsNoConnection(t *testing.T) {
	t.Parallel()
	p := newPool(1, time.Minute, func(context.Context) (*conn, error) { return nil, nil })
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if _, _, err := p.get(gone); err == nil {
			t.Fatal("a connection for somebody who gave up")
		}
	}
	if _, _, err := p.get(t.Context()); err != nil {
		t.Errorf("it is not free any more: %v", err)
	}
}
