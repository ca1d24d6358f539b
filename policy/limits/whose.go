package limits

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Quotas are those of one configuration. It never changes.
type Quotas struct {
	quotas []Quota
	ledger *Ledger
	people Accounts // nil where no quota asks the directory
	groups Groups   // nil where no quota names groups
}

// NewQuotas returns quotas, of which the first that is an account's counts; nil
// without any.
func NewQuotas(quotas []Quota, ledger *Ledger, people Accounts, groups Groups) *Quotas {
	if len(quotas) == 0 {
		return nil
	}
	return &Quotas{slices.Clone(quotas), ledger, people, groups}
}

// Begin returns what a message of somebody may still cost; nil for one without a
// quota. While the directory does not tell whose quota is his, every Take of it
// fails with a transient reason: who steals a password must not gain by an
// outage, and mail that is put off is not lost.
func (q *Quotas) Begin(ctx context.Context, id mail.Identity) *Allowance {
	if q == nil {
		return nil
	}
	quota, found, err := q.of(ctx, id)
	switch {
	case err != nil:
		return &Allowance{unknown: fmt.Errorf("which quota %s has: %w", accountKey(id), err)}
	case !found:
		return nil
	}
	return &Allowance{quota: quota, key: accountKey(id), ledger: q.ledger}
}

// accountKey names an account: names of different directories are different
// people.
func accountKey(id mail.Identity) string {
	if id.Source == "" {
		return id.Authentication
	}
	return id.Authentication + " of " + id.Source
}

// of returns the quota of somebody. It fails only when the answer depends on
// what the directory does not tell.
func (q *Quotas) of(ctx context.Context, id mail.Identity) (Quota, bool, error) {
	p := person{q: q, id: id}
	for _, quota := range q.quotas {
		if slices.Contains(quota.Except, id.Authentication) {
			continue
		}
		if yes, err := p.has(ctx, quota); err != nil || !yes {
			if err != nil {
				return Quota{}, false, err
			}
			continue
		}
		if quota.DayAttribute != "" {
			values, err := p.values(ctx, quota.DayAttribute)
			if err != nil {
				return Quota{}, false, err
			}
			if n, ok := number(values); ok {
				quota.Most[RecipientsDay] = n
			}
		}
		return quota, true, nil
	}
	return Quota{}, false, nil
}

// person is who sends, of whom the directory is asked when a quota depends on
// it, and once.
type person struct {
	q          *Quotas
	id         mail.Identity
	asked      bool
	attributes map[string][]string
	err        error
}

// has reports whether a quota is the person's.
func (p *person) has(ctx context.Context, quota Quota) (bool, error) {
	if quota.Attribute != "" {
		values, err := p.values(ctx, quota.Attribute)
		if err != nil || !has(values, quota.Values) {
			return false, err
		}
	}
	return p.inGroups(ctx, quota.Groups)
}

// values are those of an attribute; none of who is not there any more.
func (p *person) values(ctx context.Context, attribute string) ([]string, error) {
	if !p.asked && p.q.people != nil {
		account, err := p.q.people.AccountOf(ctx, p.id)
		p.attributes = account.Attributes
		if !status.Of(err).Permanent() {
			p.err = err
		}
	}
	p.asked = true
	return p.attributes[strings.ToLower(attribute)], p.err
}

// inGroups reports whether the person is in one of the groups; without any he
// is. One answer of yes is enough while others are missing.
func (p *person) inGroups(ctx context.Context, groups []mail.Address) (bool, error) {
	if len(groups) == 0 {
		return true, nil
	}
	var missing error
	for _, group := range groups {
		yes, err := p.q.groups.Belongs(ctx, mail.Poster{Identity: &p.id}, group)
		if err == nil && yes {
			return true, nil
		}
		if status.Of(err) == status.NoSuchUser { // a mistake of ours must not lift a quota
			err = status.Errorf(status.ConfigurationError, "no directory has the group %s", group)
		}
		if err != nil && missing == nil {
			missing = err
		}
	}
	return false, missing
}

func has(values, wanted []string) bool {
	if len(wanted) == 0 {
		return len(values) > 0
	}
	return slices.ContainsFunc(values, func(v string) bool {
		return slices.ContainsFunc(wanted, func(w string) bool { return strings.EqualFold(v, w) })
	})
}

// number reads the first value that is one; 0 is any number.
func number(values []string) (int64, bool) {
	for _, v := range values {
		if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil && n >= 0 {
			return n, true
		}
	}
	return 0, false
}
