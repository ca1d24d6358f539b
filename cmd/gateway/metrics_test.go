package main

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// TestMetrics: what happened stands in the metrics, and what is asked for in
// status.
func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newSite(t, strings.Replace(standard, `control { socket = "{{.Dir}}/control.sock" }`, `control {
  socket  = "{{.Dir}}/control.sock"
  metrics = "127.0.0.1:{{.Port.Metrics}}"
}`, 1), nil).start()
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"bob@example.com", "far@elsewhere.example"}, "counted"))
	if err := s.submit("alice", "wrong", "alice@example.com", []string{"bob@example.com"}, "x"); code(err) != 535 {
		t.Fatal(err)
	}
	s.waitFor("bob", "counted", 1)
	testenv.Eventually(t, time.Minute, func() error {
		page, err := s.metrics()
		if err != nil {
			return err
		}
		for _, want := range []string{
			`gateway_build_info{version="postern .*"} 1`,
			`gateway_configuration_loaded_seconds 1\.\d+e\+09`,
			`gateway_listener_sessions_open{listener="imaps"} \d+`,
			`gateway_directory_up{directory="company"} 1`,
			`gateway_store_up{store="queue"} 1`,
			`gateway_store_up{store="mail"} 1`,
			`gateway_store_free_octets{store="mail"} [1-9].*`,
			`gateway_store_packs{store="mail"} \d+`,
			`gateway_store_live_octets{store="queue"} \d+`,
			`gateway_store_dead_octets{store="queue"} \d+`,
			`gateway_store_moved_octets_total{store="mail"} 0`,
			`gateway_queue_messages 1`,
			`gateway_queue_held_messages 0`,
			`gateway_queue_deliveries_in_flight 0`,
			`gateway_queue_destinations_unreachable 1`,
			`gateway_queue_accepted_total 1`,
			`gateway_queue_recipients_total{outcome="delivered"} 1`,
			`gateway_audit_events_total{event="authentication",result="refused"} 1`,
			`gateway_smtpd_messages_total{result="accepted",service="submission"} 1`,
		} {
			if !regexp.MustCompile("(?m)^" + want + "$").MatchString(page) {
				return fmt.Errorf("no %s in:\n%s", want, page)
			}
		}
		return nil
	})
	for _, want := range []string{`company +answers`, `mail +\d+ MiB`, `mail +\d+ +\d+ MiB +\d+ MiB`, `QUEUE +1 message`, `unreachable +outside`} {
		waitForOutput(t, s, want, "status")
	}
}

// metrics reads the page monitoring reads.
func (s *site) metrics() (string, error) {
	response, err := http.Get("http://" + s.address("Metrics") + "/metrics")
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }() // read to its end
	page, err := io.ReadAll(response.Body)
	return string(page), err
}
