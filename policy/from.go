package policy

import (
	"context"
	netmail "net/mail"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// headerFrom refuses messages whose header field From names somebody else than
// who sends: the address that people see, where the reverse-path is not.
type headerFrom struct {
	name   string
	owners Owners
	// aligned compares with the reverse-path's domain, else with who logged in.
	aligned bool
}

// maxAuthors bounds the addresses of one From that are looked up.
const maxAuthors = 20

func makeHeaderFrom(b *builder, _ scope, name string, spec Spec) Stage {
	h := headerFrom{name: name, owners: b.chain.deps.Owners}
	switch with := strings.Join(spec.Args["with"], " "); with {
	case "", "login":
		if h.owners == nil {
			b.mistake(spec.Pos, name+" needs "+owners.what, "configure it, or give it with = \"sender\"")
		}
	case "sender":
		h.aligned = true
	default:
		b.mistake(spec.Pos, "with of "+name+" is "+with, "use login or sender")
	}
	return h
}

// Name returns the restriction's name.
func (h headerFrom) Name() string { return h.name }

// InspectsMessage implements Inspector.
func (headerFrom) InspectsMessage() {}

// Evaluate looks at every address in From. A message without one that can be
// read names nobody, and is refused where somebody has to be named.
func (h headerFrom) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	if tx.Message == nil || !h.concerns(tx) {
		return mail.Verdict{}, nil
	}
	authors, ok := fromAddresses(tx.Message.Fields()[tx.Message.Ours():])
	if !ok {
		return h.refuse("a message needs one From field with an address that can be read"), nil
	}
	for _, author := range authors {
		if h.aligned {
			if !related(author.Domain, tx.Envelope.ReversePath.Domain) {
				return h.refuse(author.Path() + ": not in the domain of the sender " + tx.Envelope.ReversePath.Path()), nil
			}
			continue
		}
		may, err := h.owners.MaySendAs(ctx, *tx.Client.Identity, author)
		if err != nil {
			return mail.Verdict{}, err
		}
		if !may {
			return h.refuse(author.Path() + ": not owned by user " + tx.Client.Identity.Authentication), nil
		}
	}
	return mail.Verdict{}, nil
}

func (h headerFrom) concerns(tx *mail.Transaction) bool {
	if h.aligned {
		return !tx.Envelope.ReversePath.IsNull()
	}
	return isAuthenticated(tx)
}

func (h headerFrom) refuse(why string) mail.Verdict {
	reply := status.SenderNotOwned.Reply()
	reply.Code, reply.Text = 550, "From header rejected: "+why
	return mail.Verdict{Action: mail.Reject, Reason: status.SenderNotOwned, Reply: &reply}
}

// fromAddresses returns the addresses of the one From field; false where there is
// none, several, or one that cannot be read or names too many.
func fromAddresses(fields []mail.Field) ([]mail.Address, bool) {
	var from mail.Field
	for _, f := range fields {
		if !f.Is("From") {
			continue
		}
		if from != "" {
			return nil, false
		}
		from = f
	}
	list, err := netmail.ParseAddressList(from.Unfolded())
	if from == "" || err != nil || len(list) == 0 || len(list) > maxAuthors {
		return nil, false
	}
	authors := make([]mail.Address, len(list))
	for i, one := range list {
		if authors[i], err = mail.ParseAddress(one.Address); err != nil {
			return nil, false
		}
	}
	return authors, true
}

// related reports whether one domain is the other, or below it.
func related(a, b mail.Domain) bool {
	x, y := strings.ToLower(string(a)), strings.ToLower(string(b))
	return x == y || strings.HasSuffix(x, "."+y) || strings.HasSuffix(y, "."+x)
}
