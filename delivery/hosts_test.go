package delivery_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/mail"
)

// TestUnknownHostRoutes: mail for a host that was unknown when it came goes
// where the present configuration has it; until then it waits, and the log
// says for what.
func TestUnknownHostRoutes(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	target := delivery.Target{Name: "box1", Addresses: []string{"unix:/nonexistent"}}
	for _, tt := range []struct {
		unknown string
		hosts   map[string]string
		want    string
	}{
		{"defer", nil, "host Box2.example/"},
		{"", nil, "host Box2.example/"},
		{"domain", nil, "box1/"},
		{"connect", nil, "box1/Box2.example"},
		{"defer", map[string]string{"box2.example": "box3"}, "box3/"},
		{"defer", map[string]string{"box2.example": ""}, "box1/"},
	} {
		r, err := delivery.New(delivery.Config{
			Targets: []delivery.Target{target}, Domains: map[mail.Domain]string{"example.com": "box1"},
			Hosts: tt.hosts, UnknownHost: tt.unknown,
		}, map[string]delivery.Transport{"box1": &recorder{}, delivery.Outbound: &recorder{}}, hclog.New(&hclog.LoggerOptions{Output: &log}))
		if err != nil {
			t.Fatal(err)
		}
		d := message("a@example.com")
		d.Envelope.Recipients[0].Route.Transport = mail.UnknownHost + "Box2.example"
		if got := r.Destination(d.Envelope.ReversePath, d.Envelope.Recipients[0]); got != tt.want {
			t.Errorf("%+v: goes to %q", tt, got)
		}
		if !strings.HasPrefix(tt.want, mail.UnknownHost) {
			continue
		}
		log.Reset()
		if got := r.Deliver(t.Context(), d); sketch(got) != "deferred 4.3.5" {
			t.Errorf("%+v", got)
		}
		if !strings.Contains(log.String(), "Box2.example") {
			t.Errorf("the log does not tell which host: %s", &log)
		}
	}
}
