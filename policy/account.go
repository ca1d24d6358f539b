package policy

import (
	"context"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// isAuthenticated reports whether the client logged in as somebody.
func isAuthenticated(tx *mail.Transaction) bool {
	id := tx.Client.Identity
	return id != nil && id.Mechanism != "ANONYMOUS" && id.Authentication != ""
}

// loginOf is who logged in.
func loginOf(tx *mail.Transaction) string {
	if tx.Client.Identity == nil {
		return "nobody logged in"
	}
	return tx.Client.Identity.Authentication
}

// makeAuthenticated makes permit_authenticated: it permits clients that logged
// in. Accounts that may send to our own domains only are not permitted what
// goes elsewhere.
func makeAuthenticated(b *builder, _ scope, name string, _ Spec) Stage {
	people, domains := b.chain.deps.Accounts, b.chain.deps.Domains
	return plain{name, func(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
		if !isAuthenticated(tx) {
			return mail.Verdict{}, nil
		}
		if people == nil || tx.Recipient == nil || authorized(domains, tx.Recipient.Address) {
			return permitted(true), nil
		}
		account, err := people.AccountOf(ctx, *tx.Client.Identity)
		if status.Of(err) == status.NoSuchUser {
			return mail.Verdict{}, nil
		}
		if err != nil {
			return mail.Verdict{}, err
		}
		if account.NoRelay {
			return mail.Verdict{Detail: account.Name + " may send to our own domains only"}, nil
		}
		return permitted(true), nil
	}}
}

// attribute is permit_account or reject_account: what an account has in one
// attribute decides.
type attribute struct {
	stage   string
	name    string
	values  []string // any of them; none means that the attribute is there
	about   subject  // whose account
	people  Accounts
	domains Domains
	found   func(a *attribute, tx *mail.Transaction) mail.Verdict
}

func permitAccount(*attribute, *mail.Transaction) mail.Verdict { return permitted(true) }

func rejectAccount(a *attribute, tx *mail.Transaction) mail.Verdict {
	return a.about.refuse(tx, mail.Reject, status.AccessDenied, "Access denied")
}

// ofAccount describes one of the two.
func ofAccount(found func(*attribute, *mail.Transaction) mail.Verdict) restriction {
	return restriction{
		needs: mail.PhaseMail, deps: []need{accounts}, args: []string{"attribute", "values", "of"},
		make: func(b *builder, _ scope, name string, spec Spec) Stage {
			a := &attribute{
				stage: name, name: strings.ToLower(strings.Join(spec.Args["attribute"], " ")), values: spec.Args["values"],
				about: aboutSender, people: b.chain.deps.Accounts, domains: b.chain.deps.Domains, found: found,
			}
			if a.name == "" {
				b.mistake(spec.Pos, name+" names no attribute", `give it one, such as attribute = "employeeType"`)
			}
			switch whose := strings.Join(spec.Args["of"], " "); whose {
			case "", "sender":
			case "recipient":
				a.about = aboutRecipient
			default:
				b.mistake(spec.Pos, "of is "+whose, "use sender or recipient")
			}
			return a
		},
	}
}

// Name returns the restriction's name.
func (a *attribute) Name() string { return a.stage }

// Evaluate looks at the account. Who has none is not known by any attribute.
func (a *attribute) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	account, err := a.account(ctx, tx)
	if status.Of(err) == status.NoSuchUser {
		return mail.Verdict{}, nil
	}
	if err != nil {
		return mail.Verdict{}, err
	}
	if !a.matches(account.Attributes[a.name]) {
		return mail.Verdict{}, nil
	}
	return a.found(a, tx), nil
}

func (a *attribute) account(ctx context.Context, tx *mail.Transaction) (mail.Account, error) {
	switch {
	case a.about == aboutSender && isAuthenticated(tx):
		return a.people.AccountOf(ctx, *tx.Client.Identity)
	case a.about == aboutRecipient && tx.Recipient != nil && a.domains.Class(tx.Recipient.Address.Domain) == Local:
		return a.people.Holder(ctx, tx.Recipient.Address)
	default:
		return mail.Account{}, status.Errorf(status.NoSuchUser, "nobody to look at")
	}
}

// matches compares without regard to case, as directories do with most text.
func (a *attribute) matches(values []string) bool {
	if len(a.values) == 0 {
		return len(values) > 0
	}
	return slices.ContainsFunc(values, func(v string) bool {
		return slices.ContainsFunc(a.values, func(want string) bool { return strings.EqualFold(v, want) })
	})
}
