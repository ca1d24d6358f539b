package imapd

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// toAsk is what MYRIGHTS needs: any of them (RFC 4314 section 4).
const toAsk = acl.Lookup | acl.Read | acl.Insert | acl.Create | acl.DeleteMailbox | acl.Admin

// shares reports whether there is anybody to share with: without, there are no
// access control lists either.
func (s *session) shares() bool { return s.cfg.Sharing.enabled() }

type aclArgs struct {
	name       string
	identifier string
	// op is '+', '-', or 0 to replace.
	op     byte
	rights acl.Rights
}

// parseIdentifier reads a mailbox and an identifier.
func parseIdentifier(p *parser) (a aclArgs, err error) {
	if a.name, err = parseMailbox(p); err != nil {
		return a, err
	}
	if err = p.sp(); err != nil {
		return a, err
	}
	if a.identifier, err = p.astring(); err != nil {
		return a, err
	}
	a.identifier = norm.NFC.String(a.identifier)
	if acl.Check(a.identifier) != nil {
		return a, refuse("", "Invalid identifier")
	}
	return a, nil
}

// parseSetACL reads SETACL; rights that do not exist are BAD (RFC 4314 section
// 3.1).
func parseSetACL(p *parser) (a aclArgs, err error) {
	if a, err = parseIdentifier(p); err != nil {
		return a, err
	}
	if err = p.sp(); err != nil {
		return a, err
	}
	text, err := p.astring()
	if err != nil {
		return a, err
	}
	if strings.HasPrefix(text, "+") || strings.HasPrefix(text, "-") {
		a.op, text = text[0], text[1:]
	}
	if a.rights, err = acl.Parse(text); err != nil {
		return a, syntax("unknown right")
	}
	return a, nil
}

// setACL is SETACL (RFC 4314 section 3.1).
func (s *session) setACL(ctx context.Context, a aclArgs) (result, error) {
	return s.changeACL(ctx, a, "set rights of ", func(p *place, identifier string) *acl.Rights {
		rights := a.rights
		now, _ := p.list(p.info.GUID).Of(identifier)
		switch a.op {
		case '+':
			rights = now | a.rights
		case '-':
			rights = now &^ a.rights
		}
		rights |= p.kept(identifier)
		return &rights
	})
}

// deleteACL is DELETEACL (RFC 4314 section 3.2). A line that the server's
// defaults have is overruled by an empty one.
func (s *session) deleteACL(ctx context.Context, a aclArgs) (result, error) {
	return s.changeACL(ctx, a, "remove rights of ", func(p *place, identifier string) *acl.Rights {
		if _, standard := p.defaults().Of(identifier); !standard {
			return nil
		}
		rights := p.kept(identifier)
		return &rights
	})
}

// kept are the rights that an identifier always has.
func (p *place) kept(identifier string) acl.Rights {
	if given, _ := p.defaults().Of(identifier); given.Has(acl.Admin) {
		return acl.Lookup | acl.Admin
	}
	return 0
}

// changeACL changes one line of a list, and audits it.
func (s *session) changeACL(ctx context.Context, a aclArgs, what string, change func(*place, string) *acl.Rights) (result, error) {
	p, err := s.locateFor(ctx, a.name, acl.Admin)
	if err != nil {
		s.recordMailbox(a.name, what+a.identifier, err)
		return result{}, mailboxError(err, "")
	}
	defer p.close()
	identifier, err := s.identifier(ctx, &p, a.identifier)
	if err != nil {
		return result{}, err
	}
	rights := change(&p, identifier)
	what += identifier
	if rights != nil {
		what += " to \"" + rights.String() + "\""
	}
	err = p.account.SetAccess(ctx, p.info.GUID, identifier, rights)
	s.recordMailbox(a.name, what, err)
	s.noteMine(p.account, p.info.GUID)
	if errors.Is(err, mailstore.ErrEntry) {
		err = refuse("LIMIT", "Too many identifiers in the list")
	}
	return result{}, mailboxError(err, "")
}

// identifier turns what a client says into the form of the list: an account is
// named by its canonical name, whichever of its logins was said. One that the
// list has already is taken as it is: its account may be gone.
func (s *session) identifier(ctx context.Context, p *place, said string) (string, error) {
	bare, takesAway := acl.Split(said)
	if _, listed := p.list(p.info.GUID).Of(said); listed || !acl.IsAccount(bare) {
		return said, nil
	}
	account, err := s.named(ctx, bare)
	switch {
	case err != nil && status.Of(err).Permanent():
		return "", refuse("", "No such user")
	case err != nil:
		return "", err
	case takesAway:
		return "-" + account.Name, nil
	}
	return account.Name, nil
}

// addressed is what Accounts may do, too: find an account by an address.
type addressed interface {
	AccountOf(ctx context.Context, a mail.Address) (mail.Account, error)
}

// named finds the account that somebody means: by its name, or by one of its
// addresses.
func (s *session) named(ctx context.Context, said string) (mail.Account, error) {
	account, err := s.server.deps.Accounts.Account(ctx, said)
	byAddress, can := s.server.deps.Accounts.(addressed)
	if err == nil || !can || !status.Of(err).Permanent() || !strings.Contains(said, "@") {
		return account, err
	}
	address, wrong := mail.ParseAddress(said)
	if wrong != nil {
		return account, err
	}
	return byAddress.AccountOf(ctx, address)
}

// getACL is GETACL (RFC 4314 section 3.3).
func (s *session) getACL(ctx context.Context, name string) (result, error) {
	p, err := s.locateFor(ctx, name, acl.Admin)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	defer p.close()
	s.w.str("* ACL ")
	s.writeMailbox(name)
	for _, g := range p.list(p.info.GUID) {
		if _, standard := p.defaults().Of(g.Identifier); standard && g.Rights == 0 {
			continue // overruled
		}
		s.w.char(' ')
		s.w.astring(g.Identifier)
		s.w.char(' ')
		s.w.astring(g.Rights.Wire())
	}
	s.w.line("")
	return result{}, nil
}

// listRights is LISTRIGHTS (RFC 4314 section 3.4): each right can be granted
// without the others.
func (s *session) listRights(ctx context.Context, a aclArgs) (result, error) {
	p, err := s.locateFor(ctx, a.name, acl.Admin)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	defer p.close()
	identifier, err := s.identifier(ctx, &p, a.identifier)
	if err != nil {
		return result{}, err
	}
	kept := p.kept(identifier)
	s.w.str("* LISTRIGHTS ")
	s.writeMailbox(a.name)
	s.w.char(' ')
	s.w.astring(a.identifier)
	s.w.char(' ')
	s.w.astring(kept.String())
	for _, right := range []byte((acl.All &^ kept).Wire()) {
		s.w.char(' ')
		s.w.char(right)
	}
	s.w.line("")
	return result{}, nil
}

// myRights is MYRIGHTS (RFC 4314 section 3.5).
func (s *session) myRights(ctx context.Context, name string) (result, error) {
	p, err := s.locate(ctx, name)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	defer p.close()
	have := p.rights()
	if have&toAsk == 0 {
		return result{}, mailboxError(mailstore.ErrNoMailbox, "")
	}
	s.writeMyRights(name, have)
	return result{}, nil
}

func (s *session) writeMyRights(name string, have acl.Rights) {
	s.w.str("* MYRIGHTS ")
	s.writeMailbox(name)
	s.w.char(' ')
	s.w.astring(have.Wire())
	s.w.line("")
}

// listMyRights adds the rights of RFC 8440 to a listed mailbox.
func (s *session) listMyRights(ctx context.Context, l listed) error {
	if !l.Exists {
		return nil
	}
	p, err := s.locate(ctx, l.Name)
	if errors.Is(err, mailstore.ErrNoMailbox) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	if have := p.rights(); have&toAsk != 0 {
		s.writeMyRights(l.Name, have)
	}
	return nil
}
