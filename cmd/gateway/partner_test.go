package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// TestPartnerTakesOver: while the primary is dead its partner takes the mail,
// and clients notice nothing; when the primary is back it has it again. Each
// message is in one mailbox, once.
func TestPartnerTakesOver(t *testing.T) {
	t.Parallel()
	gatewayRole := standard[strings.Index(standard, "gateway {"):strings.Index(standard, "backend {")]
	primary := newSite(t, variant(t, standard, gatewayRole, ""), nil).start()
	partner := newSite(t, variant(t, standard, gatewayRole, ""), nil).start()
	gateway := newSite(t, variant(t, standard, backendRole, "",
		`address = ["unix:{{.Socket}}"]`, `address = ["unix:{{.Extra.primary}}", "unix:{{.Extra.partner}}"]`),
		map[string]string{"primary": primary.Socket, "partner": partner.Socket}).start()
	sent := 0
	send := func() (subject string) {
		t.Helper()
		sent++
		subject = fmt.Sprintf("number %d", sent)
		must(t, gateway.inject("a@elsewhere.example", []string{"bob@example.com"}, subject))
		return subject
	}
	goesToPrimary := func() { // whose greeting may be late on a busy machine
		t.Helper()
		testenv.Eventually(t, time.Minute, func() error {
			if subject := send(); count(t, primary, "bob")[subject] != 1 {
				return fmt.Errorf("%s went to the partner", subject)
			}
			return nil
		})
	}
	goesToPrimary()
	primary.proc.Kill()
	for range 5 {
		if subject := send(); count(t, partner, "bob")[subject] != 1 {
			t.Errorf("%s is not in the partner's mailbox when its client was answered", subject)
		}
	}
	primary.start()
	goesToPrimary()
	at, other := count(t, primary, "bob"), count(t, partner, "bob")
	for n := 1; n <= sent; n++ {
		if subject := fmt.Sprintf("number %d", n); at[subject]+other[subject] != 1 {
			t.Errorf("%s: %d times at the primary, %d at the partner", subject, at[subject], other[subject])
		}
	}
}
