package policy

import (
	"testing"

	"github.com/postern-mail/postern/mail"
)

func TestAccountRestrictions(t *testing.T) {
	t.Parallel()
	const (
		denied = "554 5.7.1 <"
		down   = "451 4.4.3 "
	)
	for _, c := range []struct{ list, login, to, want string }{
		{"permit_account(attribute=employeeType&values=staff) reject", "alice", "x@far.example", "ok"},
		{"permit_account(attribute=EMPLOYEETYPE) reject", "alice", "x@far.example", "ok"},
		{"permit_account(attribute=employeeType&values=guest;MANAGER) reject", "alice", "x@far.example", "ok"},
		{"permit_account(attribute=employeeType&values=guest) reject", "alice", "x@far.example", denied},
		{"permit_account(attribute=employeeType) reject", "bob", "x@far.example", denied},
		{"permit_account(attribute=employeeType) reject", "nobody", "x@far.example", denied},
		{"permit_account(attribute=employeeType) reject", "", "x@far.example", denied},
		{"permit_account(attribute=employeeType) reject", "carol", "x@far.example", down},
		{"reject_account(attribute=employeeType&values=staff) permit_auth_destination reject", "alice", "bob@example.com", denied},
		{"reject_account(attribute=employeeType&values=guest) permit_auth_destination reject", "alice", "bob@example.com", "ok"},
		{"reject_account(attribute=employeeType&of=recipient) permit_auth_destination reject", "", "alice@example.com", denied + "alice@example.com>: Recipient address rejected: Access denied"},
		{"reject_account(attribute=employeeType&of=recipient) permit_auth_destination reject", "alice", "bob@example.com", "ok"},
		{"reject_account(attribute=employeeType&of=recipient) permit_auth_destination reject", "alice", "alice@relayed.example", "ok"},

		{"permit_authenticated reject", "alice", "x@far.example", "ok"},
		{"permit_authenticated reject", "bob", "alice@example.com", "ok"},
		{"permit_authenticated reject", "bob", "x@far.example", denied},
		{"permit_authenticated reject", "bob", "x@relayed.example", "ok"},
		{"permit_authenticated reject", "nobody", "x@far.example", denied},
		{"permit_authenticated reject", "carol", "x@far.example", down},
		{"permit_authenticated reject", "carol", "alice@example.com", "ok"}, // nobody has to be asked
		{"permit_authenticated reject", "", "x@far.example", denied},
	} {
		f := build(t, Config{AcceptUnlisted: true}, map[List]string{ListRelay: c.list})
		tx := transaction("s@far.example", c.to)
		if c.login != "" {
			tx.Client.Identity = &mail.Identity{Authentication: c.login, Mechanism: "PLAIN"}
		}
		got := outcome(f.chain.Session().Evaluate(t.Context(), tx))
		if got != c.want && (c.want == "ok" || len(got) < len(c.want) || got[:len(c.want)] != c.want) {
			t.Errorf("%s, login %q to %s: %s; want %s", c.list, c.login, c.to, got, c.want)
		}
	}
}

// Restrictions that look at accounts say what they need.
func TestAccountRestrictionsNeedADirectory(t *testing.T) {
	t.Parallel()
	for _, list := range []string{"permit_account", "permit_account(attribute=x&of=host)"} {
		f := &fixture{}
		if _, err := Build(Config{}, map[List][]Spec{ListSender: words(list)}, deps(f)); err == nil {
			t.Errorf("%s is taken", list)
		}
	}
	f := &fixture{}
	d := deps(f)
	d.Accounts = nil
	if _, err := Build(Config{}, map[List][]Spec{ListSender: words("permit_account(attribute=x)")}, d); err == nil {
		t.Error("permit_account is taken without a directory")
	}
}
