package delivery_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/internal/smtptest"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// newOwn starts the greeting of a server that drops repeats, as our backend
// does, and refuses everything else.
func newOwn(t *testing.T, w *wires, address string) {
	t.Helper()
	server, err := smtp.NewServer(smtp.ServerConfig{Name: "own", Hostname: "own.example", Mode: smtp.ModeLMTP}, refusing{}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	l := smtptest.NewListener()
	running(t, func(ctx context.Context) error { return server.Serve(ctx, l) })
	w.at(address, l.Dial)
}

// refusing embeds the Session it does not implement: nobody asks for the rest.
type refusing struct{ smtp.Session }

func (refusing) NewSession(context.Context, *mail.Client) (smtp.Session, error) {
	return refusing{}, nil
}
func (refusing) Helo(context.Context) error { return nil }
func (refusing) Mechanisms() []string       { return nil }
func (refusing) Mail(context.Context, smtp.MailCommand) (smtp.Transaction, error) {
	return nil, status.Errorf(status.ServerBusy, "not today")
}
func (refusing) Close(error) {}

// TestDirect: which targets mail is brought to while the client waits.
func TestDirect(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		address string
		mode    delivery.CutThrough
		want    bool
	}{
		"one that drops repeats":       {"/own", "", true},
		"one that drops repeats, auto": {"/own", delivery.CutThroughAuto, true},
		"one that does not":            {"/other", "", false},
		"any":                          {"/other", delivery.CutThroughAlways, true},
		"none":                         {"/own", delivery.CutThroughNever, false},
		"nobody there":                 {"/nonexistent", "", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			var w wires
			newOwn(t, &w, "/own")
			other := &answering{taken: make(map[string]int), hangUp: make(chan struct{})}
			w.listen(t, "/other", other.serve)
			target := w.target(row.address)
			target.Name, target.CutThrough = "backend", row.mode
			tr := newLMTP(t, target)
			r, err := delivery.New(delivery.Config{
				Targets: []delivery.Target{target}, Domains: map[mail.Domain]string{"example.com": "backend"},
			}, map[string]delivery.Transport{"backend": tr, delivery.Outbound: &recorder{}}, hclog.NewNullLogger())
			if err != nil {
				t.Fatal(err)
			}
			destination := r.Destination(mail.Address{}, mail.Recipient{Address: mail.MustAddress("a@example.com")})
			if got := r.Direct(destination); got != row.want {
				t.Errorf("%s: direct before the first message: %t", name, got)
			}
			tr.Deliver(t.Context(), message("a@example.com"))
			if got := r.Direct(destination); got != row.want {
				t.Errorf("%s: direct after the first message: %t", name, got)
			}
			if r.Direct(r.Destination(mail.Address{}, mail.Recipient{Address: mail.MustAddress("a@elsewhere.example")})) {
				t.Errorf("%s: direct to the world", name)
			}
		})
	}
}

// TestConcurrency: a destination takes as much at once as its target has
// connections; of the world the queue decides.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	targets := []delivery.Target{
		{Name: "near", Addresses: []string{"unix:/run/lmtp"}},
		{Name: "far", Addresses: []string{"backend.example:24"}},
		{Name: "chosen", Addresses: []string{"backend.example:24"}, MaxConnections: 7},
	}
	transports := map[string]delivery.Transport{delivery.Outbound: &recorder{}}
	for _, target := range targets {
		transports[target.Name] = &recorder{}
	}
	r, err := delivery.New(delivery.Config{Targets: targets}, transports, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	for destination, want := range map[string]int{"near/": 100, "far/": 20, "chosen/": 7, "far/other.example": 20, "smtp/elsewhere.example": 0, "": 0} {
		if _, limit := r.Concurrency(destination); limit != want {
			t.Errorf("%q takes %d at once, want %d", destination, limit, want)
		}
	}
}

// TestCutThroughIsForLMTP: an answer by SMTP is not the mailbox's.
func TestCutThroughIsForLMTP(t *testing.T) {
	t.Parallel()
	for _, target := range []delivery.Target{
		{Name: "a", Protocol: delivery.SMTP, Addresses: []string{"relay.example"}, CutThrough: delivery.CutThroughAlways},
		{Name: "a", Addresses: []string{"unix:/run/lmtp"}, CutThrough: "sometimes"},
	} {
		if _, err := delivery.New(delivery.Config{Targets: []delivery.Target{target}}, map[string]delivery.Transport{"a": &recorder{}, delivery.Outbound: &recorder{}}, hclog.NewNullLogger()); err == nil {
			t.Errorf("accepted %+v", target)
		}
	}
}
