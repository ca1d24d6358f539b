package rspamd

import (
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/breaker"
)

// Memory is how servers do. It outlives configurations, and may be used
// concurrently.
type Memory struct {
	mu      sync.Mutex
	servers map[asked]*breaker.Breaker
}

// asked is a server with all that it depends on whether it answers: once one of
// that is changed, what was before tells nothing any more.
type asked struct {
	url, passwordFile string
	timeout           time.Duration
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory { return &Memory{servers: make(map[asked]*breaker.Breaker)} }

// health returns how a server does. Servers are those of configurations, and few.
func (m *Memory) health(url string, cfg *Config) *breaker.Breaker {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := asked{url, cfg.PasswordFile, cfg.Timeout}
	b := m.servers[key]
	if b == nil {
		b = new(breaker.Breaker)
		m.servers[key] = b
	}
	return b
}
