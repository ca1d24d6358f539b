package rspamd

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/breaker"
)

// A server that failed is left alone over a reload that leaves it as it was; one
// that is asked in another way now is asked at once.
func TestHealthOverReloads(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "busy", http.StatusServiceUnavailable)
	}))
	t.Cleanup(server.Close)
	cfg := Config{URLs: []string{server.URL}, Timeout: time.Minute, MaxMessage: 1 << 20}
	memory, registry := NewMemory(), prometheus.NewRegistry()
	build := func(cfg Config) *Stage {
		t.Helper()
		s, err := New(cfg, memory, hclog.NewNullLogger(), registry)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	up := func(want float64) {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "gateway_rspamd_up" && f.GetMetric()[0].GetGauge().GetValue() != want {
				t.Errorf("the gauge is not %v", want)
			}
		}
	}
	before := build(cfg)
	up(1)
	for range breaker.Allowed {
		if _, err := before.Evaluate(t.Context(), transaction(newLetter())); err == nil {
			t.Fatal("no error of a server that fails")
		}
	}
	up(0)
	after := build(cfg)
	up(0)
	if st := after.States()[server.URL]; !st.Down || st.Failure == nil {
		t.Errorf("after a reload the server counts as %+v", st)
	}
	if before.servers[0].breaker != after.servers[0].breaker {
		t.Error("after a reload the server is another")
	}
	cfg.PasswordFile = "/nonexistent"
	if st := build(cfg).States()[server.URL]; st.Down {
		t.Error("asked with a password it counts as down")
	}
}
