package queue

import (
	"context"
	"io"
	"slices"
	"testing"

	"github.com/postern-mail/postern/mail"
)

func TestDeliver(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	var got string
	r.transport.deliver = func(_ context.Context, d mail.Delivery, _ mail.Recipient) mail.Outcome {
		content, err := d.Open()
		if err != nil {
			t.Error(err)
			return later
		}
		defer content.Close()
		octets, _ := io.ReadAll(content)
		got = string(octets)
		return fine
	}
	r.start()
	id := r.accept("alice@a.test", "bob@b.test")
	r.empty()
	if got != body {
		t.Errorf("content %q", got)
	}
	want := []string{"accept ok", "delivery delivered", "final delivered"}
	if events := r.audit.of(id); !slices.Equal(events, want) {
		t.Errorf("audit %q, want %q", events, want)
	}
	if ids := r.transport.delivered("bob@b.test"); len(ids) != 1 || ids[0] != string(id)+".0" {
		t.Errorf("delivery ids %q", ids)
	}
}
