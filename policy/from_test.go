package policy

import (
	"context"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

func TestHeaderFrom(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, with, login, from string
		fields                  []mail.Field
		want                    string
	}{
		{"his own", "login", "alice", "alice@example.com", []mail.Field{"From: Alice <alice@example.com>"}, "ok"},
		{"a shared address", "login", "bob", "bob@example.com", []mail.Field{"from: info@example.com"}, "ok"},
		{"somebody else's", "login", "bob", "bob@example.com", []mail.Field{"From: alice@example.com"},
			"550 5.7.1 From header rejected: <alice@example.com>: not owned by user bob"},
		{"his own and somebody else's", "login", "alice", "alice@example.com", []mail.Field{"From: alice@example.com, x@far.example"},
			"550 5.7.1 From header rejected: <x@far.example>: not owned by user alice"},
		{"the directory is down", "login", "alice", "alice@example.com", []mail.Field{"From: carol@example.com"},
			"451 4.4.3 <END-OF-MESSAGE>: Directory temporarily unavailable"},
		{"nobody logged in", "login", "", "x@far.example", []mail.Field{"From: alice@example.com"}, "ok"},
		{"two fields", "login", "alice", "alice@example.com", []mail.Field{"From: alice@example.com", "From: boss@example.com"},
			"550 5.7.1 From header rejected: a message needs one From field with an address that can be read"},
		{"none", "login", "alice", "alice@example.com", []mail.Field{"Subject: x"},
			"550 5.7.1 From header rejected: a message needs one From field with an address that can be read"},
		{"a group of nobody", "login", "alice", "alice@example.com", []mail.Field{"From: us:;"},
			"550 5.7.1 From header rejected: a message needs one From field with an address that can be read"},
		{"aligned", "sender", "", "bounce@mail.far.example", []mail.Field{"From: x@Far.example"}, "ok"},
		{"not aligned", "sender", "", "bounce@near.example", []mail.Field{"From: x@far.example"},
			"550 5.7.1 From header rejected: <x@far.example>: not in the domain of the sender <bounce@near.example>"},
		{"a report", "sender", "", "", []mail.Field{"From: mailer@far.example"}, "ok"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := build(t, Config{}, map[List]string{ListContent: "reject_header_from_mismatch(with=" + tt.with + ")"})
			tx := transaction(tt.from, "alice@example.com")
			tx.Phase, tx.Message = mail.PhaseEndOfData, &paper{fields: tt.fields}
			if tt.login != "" {
				tx.Client.Identity = &mail.Identity{Authentication: tt.login}
			}
			if got := outcome(f.chain.Session().Evaluate(context.Background(), tx)); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
	f := &fixture{}
	if _, err := Build(Config{}, map[List][]Spec{ListSender: words("reject_header_from_mismatch")}, deps(f)); err == nil || !strings.Contains(err.Error(), "move it to the content list") {
		t.Errorf("%v", err)
	}
}
