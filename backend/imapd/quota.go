package imapd

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
)

// ownQuotaRoot names the quota root of the client's own account. That of
// another account is named by where its mailboxes lie.
const ownQuotaRoot = "User quota"

var errNoQuotaRoot = refuse("NONEXISTENT", "No such quota root")

// limitsAge is how old limits may be that commands go by: so soon a change in
// the directory acts on clients that are logged in.
const limitsAge = 5 * time.Second

// refreshLimits asks the directory for the limits of the place's account, if
// that was not done just now. While it does not answer, what it said before
// holds.
func (s *session) refreshLimits(ctx context.Context, p *place) {
	if p.public != nil || p.account.LimitsAge() < limitsAge {
		return
	}
	who, err := s.server.deps.Accounts.Account(ctx, p.account.Name())
	if err != nil {
		s.log.Debug("limits are not known now", "account", p.account.Name(), "error", err)
		return
	}
	p.account.SetLimits(who)
}

// quotaRoot names the quota root of a place.
func (p *place) quotaRoot() string {
	if p.own() {
		return ownQuotaRoot
	}
	return strings.TrimSuffix(p.prefix, delimiter)
}

func parseQuotaRoot(p *parser) (string, error) {
	if err := p.sp(); err != nil {
		return "", err
	}
	return p.astring()
}

// getQuota is GETQUOTA (RFC 9208 section 4.1.2).
func (s *session) getQuota(ctx context.Context, root string) (result, error) {
	p := place{account: s.account, who: s.who}
	if root != ownQuotaRoot {
		var err error
		if p, err = s.locateRoot(ctx, root); err != nil {
			return result{}, err
		}
	}
	defer p.close()
	s.refreshLimits(ctx, &p)
	if !p.limited() {
		return result{}, errNoQuotaRoot
	}
	s.writeQuota(&p)
	return result{}, nil
}

// limited reports whether anything in the place has a limit. Where nothing has,
// there is no quota root: a QUOTA response has one resource at the least (RFC
// 9208 section 7), and Thunderbird takes one without for a broken line.
func (p *place) limited() bool {
	_, octets := p.account.Quota()
	_, messages := p.account.QuotaMessages()
	return octets > 0 || messages > 0
}

// locateRoot finds the quota root of another account, of which the client
// learns where it may add messages.
func (s *session) locateRoot(ctx context.Context, root string) (place, error) {
	name, err := s.parserOf(nil).decode(root)
	if err != nil {
		return place{}, errNoQuotaRoot
	}
	p, err := s.locate(ctx, name)
	if errors.Is(err, mailstore.ErrNoMailbox) {
		return place{}, errNoQuotaRoot
	}
	if err != nil {
		return place{}, err
	}
	if p.own() || p.info.Name != "" || !p.addsSomewhere(ctx) {
		p.close()
		return place{}, errNoQuotaRoot
	}
	return p, nil
}

func (p *place) addsSomewhere(ctx context.Context) bool {
	list, err := p.account.List(ctx)
	if err != nil {
		return false
	}
	for _, m := range list {
		if m.Exists && p.rightsIn(m.GUID).Has(toAdd) {
			return true
		}
	}
	return false
}

// getQuotaRoot is GETQUOTAROOT (RFC 9208 section 4.1.3).
func (s *session) getQuotaRoot(ctx context.Context, name string) (result, error) {
	p, err := s.locateFor(ctx, name, 0)
	if err == nil && p.rights()&(toRead|toAdd) == 0 {
		p.close()
		err = mailstore.ErrNoMailbox
		if p.rights().Has(toList) {
			err = errNotPermitted
		}
	}
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	defer p.close()
	s.refreshLimits(ctx, &p)
	s.w.str("* QUOTAROOT ")
	s.writeMailbox(name)
	if !p.limited() || !p.rights().Has(toAdd) { // how full it is is no reader's affair
		s.w.line("")
		return result{}, nil
	}
	s.w.char(' ')
	s.w.text(s.rootName(&p))
	s.w.line("")
	s.writeQuota(&p)
	return result{}, nil
}

func (s *session) rootName(p *place) string {
	if p.own() {
		return ownQuotaRoot
	}
	return s.wireName(p.quotaRoot())
}

// writeQuota writes the QUOTA response: what has a limit.
func (s *session) writeQuota(p *place) {
	s.w.str("* QUOTA ")
	s.w.text(s.rootName(p))
	s.w.str(" (")
	sep := ""
	resource := func(name string, used, limit int64) {
		if limit <= 0 {
			return
		}
		s.w.str(sep + name + " ")
		s.w.num(uint64(used))
		s.w.char(' ')
		s.w.num(uint64(limit))
		sep = " "
	}
	const unit = 1024
	octets, limit := p.account.Quota()
	resource("STORAGE", (octets+unit-1)/unit, (limit+unit-1)/unit)
	messages, most := p.account.QuotaMessages()
	resource("MESSAGE", messages, most)
	s.w.line(")")
}

// setQuota is SETQUOTA: QUOTASET is not offered, for limits are the
// directory's, and a second place for them would be wrong sooner or later.
func (s *session) setQuota(context.Context, string) (result, error) {
	return result{}, refuse("NOPERM", "Limits are set in the directory")
}

// parseSetQuota reads SETQUOTA no further than it needs to refuse it.
func parseSetQuota(p *parser) (string, error) {
	root, err := parseQuotaRoot(p)
	p.i = len(p.b)
	return root, err
}
