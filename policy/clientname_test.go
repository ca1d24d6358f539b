package policy

import (
	"testing"

	"github.com/postern-mail/postern/mail"
)

// TestClientNames holds the restrictions on the name of a client against each
// way in which its look-up can end.
func TestClientNames(t *testing.T) {
	t.Parallel()
	const (
		noName    = "450 4.7.25 Client host rejected: cannot find your hostname, [198.51.100.7]"
		noReverse = "450 4.7.1 Client host rejected: cannot find your reverse hostname, [198.51.100.7]"
		notAsked  = "451 4.3.5 <unknown[198.51.100.7]>: Client host rejected: Server configuration error"
	)
	for _, tt := range []struct {
		name           mail.ClientName
		local          bool // not by the network
		client, revers string
	}{
		{name: mail.ClientName{Hostname: "a.example", Reverse: "a.example", Naming: mail.NameVerified}, client: "ok", revers: "ok"},
		{name: mail.ClientName{Reverse: "a.example", Naming: mail.NameForged}, client: noName, revers: "ok"},
		{name: mail.ClientName{Reverse: "a.example", Naming: mail.NameUnknown}, client: noName, revers: "ok"},
		{name: mail.ClientName{Naming: mail.NameUnknown}, client: noName, revers: noReverse},
		{name: mail.ClientName{Naming: mail.NameMissing}, client: noName, revers: noReverse},
		{name: mail.ClientName{}, client: notAsked, revers: notAsked},
		{name: mail.ClientName{}, local: true, client: "ok", revers: "ok"},
	} {
		for restriction, want := range map[string]string{
			"reject_unknown_client_hostname": tt.client, "reject_unknown_client": tt.client,
			"reject_unknown_reverse_client_hostname": tt.revers,
		} {
			f := build(t, Config{AcceptUnlisted: true}, map[List]string{ListClient: restriction})
			tx := transaction("s@sender.example", "bob@example.com")
			tx.Client.SetName(tt.name)
			if tt.local {
				tx.Client.Remote = mail.Client{}.Remote
			}
			if got := outcome(f.chain.Session().Evaluate(t.Context(), tx)); got != want {
				t.Errorf("%s, %+v: %s, want %s", restriction, tt.name, got, want)
			}
		}
	}
}
