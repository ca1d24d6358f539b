package smtp

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestTraceKeepsSecrets: the protocol trace shows commands and replies, and
// nothing of what SASL carries, in either direction.
func TestTraceKeepsSecrets(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	server, err := NewServer(ServerConfig{Hostname: "mx.test", Mode: ModeSubmission, AllowInsecureAuth: true}, &fakeHandler{},
		hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &log}))
	check(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	c := dialTalker(t, l.Addr().String())
	c.hear("220")
	c.say("EHLO client.test")
	c.hear("250")
	c.say("AUTH X-TWO-STEPS", "YmFk") // "bad", to "first"
	c.hear("334", "535")
	c.say("AUTH PLAIN", "AGEAYmFk")
	c.hear("334", "535")
	c.say("AUTH PLAIN AGEAc2VjcmV0")
	c.hear("235")
	c.say("QUIT")
	c.hear("221")
	c.hearEnd()
	cancel()
	check(t, <-done)
	trace := log.String()
	for _, secret := range []string{"YmFk", "AGEA", "Zmlyc3Q", "secret"} {
		if strings.Contains(trace, secret) {
			t.Errorf("%q is in the trace:\n%s", secret, trace)
		}
	}
	for _, word := range []string{"AUTH", "EHLO", "client.test", "535", "250"} {
		if !strings.Contains(trace, word) {
			t.Errorf("%q is not in the trace:\n%s", word, trace)
		}
	}
}

// TestShutdownUnderTLS: an interrupted read does not keep the 421 from being
// sent through the TLS layer.
func TestShutdownUnderTLS(t *testing.T) {
	t.Parallel()
	serverTLS, clientTLS := testTLS(t)
	_, address, stop := startLoopback(t, ServerConfig{TLS: serverTLS, ImplicitTLS: true}, &fakeHandler{})
	conn, err := tls.Dial("tcp", address, clientTLS)
	c := talkTo(t, conn, err)
	c.hear("220")
	c.say("EHLO client.test")
	c.hear("250")
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	c.hear("421")
	c.hearEnd()
	<-stopped
}
