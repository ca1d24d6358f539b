package rewrite

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Table maps an address to addresses. It may be used concurrently.
type Table interface {
	// Name tells the table in errors.
	Name() string
	// Lookup returns what key, an address in small letters, "@domain" or a
	// local-part alone, stands for; nothing when the table has not got it. An
	// error means that nobody knows.
	Lookup(ctx context.Context, key string) ([]string, error)
}

// Patterns is a Table that is asked about whole addresses only, in the letter
// case they have.
type Patterns interface {
	Table
	// Patterns is there to tell such tables from others.
	Patterns()
}

// maxSteps bounds how often a result is looked up again.
const maxSteps = 10

// finder looks addresses up in the forms of canonical(5): user+ext@domain,
// user@domain, then where the domain is ours user+ext and user, then @domain.
type finder struct {
	localNames []mail.Domain
	delimiter  string
	propagate  bool
	origin     mail.Domain
}

// form is one of the keys of an address.
type form struct {
	key       string
	extension string // cut off for this key
}

func (f finder) forms(a mail.Address) []form {
	folded := a.Fold()
	forms := append(make([]form, 0, 5), form{key: folded.String()})
	base, extension, cut := f.cut(folded)
	if cut {
		// The extension goes on in the letter case it came in.
		extension = string(a.Local)[len(a.Local)-len(extension):]
		forms = append(forms, form{base.String(), extension})
	}
	if slices.Contains(f.localNames, folded.Domain) {
		forms = append(forms, form{key: folded.Local.String()})
		if cut {
			forms = append(forms, form{base.Local.String(), extension})
		}
	}
	return append(forms, form{key: "@" + string(folded.Domain)})
}

// cut separates the extension, delimiter included. Addresses that every site
// has keep what looks like one.
func (f finder) cut(a mail.Address) (base mail.Address, extension string, ok bool) {
	at := strings.IndexAny(string(a.Local), f.delimiter)
	if f.delimiter == "" || at <= 0 || slices.Contains([]string{"mailer-daemon", "double-bounce", "postmaster"}, string(a.Local)) {
		return a, "", false
	}
	if a.Local[at] == '-' && (strings.HasPrefix(string(a.Local), "owner-") || strings.HasSuffix(string(a.Local), "-request")) {
		return a, "", false
	}
	return mail.Address{Local: a.Local[:at], Domain: a.Domain}, string(a.Local[at:]), true
}

// find asks the tables for each form of a.
func (f finder) find(ctx context.Context, tables []Table, a mail.Address) (values []string, by form, table string, err error) {
	for i, form := range f.forms(a) {
		for _, t := range tables {
			if ctx.Err() != nil {
				return nil, form, t.Name(), unknown(t.Name(), ctx.Err())
			}
			key := form.key
			if _, ok := t.(Patterns); ok {
				if i > 0 {
					continue
				}
				key = a.String()
			}
			values, err := t.Lookup(ctx, key)
			if err != nil {
				return nil, form, t.Name(), unknown(t.Name(), err)
			}
			if len(values) > 0 {
				return values, form, t.Name(), nil
			}
		}
	}
	return nil, form{}, "", nil
}

// follow looks a up, and what it stands for, until nothing changes.
func (f finder) follow(ctx context.Context, tables []Table, a mail.Address) (mail.Address, error) {
	start := a
	for range maxSteps {
		next, err := f.step(ctx, tables, a)
		if err != nil || next.Fold() == a.Fold() {
			return next, err
		}
		a = next
	}
	return start, status.Errorf(status.ConfigurationError, "%s leads through more than %d addresses of the same map", start, maxSteps)
}

// step looks a up once.
func (f finder) step(ctx context.Context, tables []Table, a mail.Address) (mail.Address, error) {
	values, by, table, err := f.find(ctx, tables, a)
	if err != nil || len(values) == 0 {
		return a, err
	}
	if len(values) > 1 {
		return a, status.Errorf(status.ConfigurationError, "table %s: %s stands for %d addresses, not for one", table, by.key, len(values))
	}
	return f.target(a, values[0], by, table)
}

// target reads a value: an address, "@domain", which keeps the local-part, or
// a local-part, which gets our domain.
func (f finder) target(a mail.Address, value string, by form, table string) (mail.Address, error) {
	value = strings.TrimSpace(value)
	if domain, ok := strings.CutPrefix(value, "@"); ok {
		d, err := mail.ParseDomain(domain)
		if err != nil {
			return a, badValue(table, by.key, value, err)
		}
		return mail.Address{Local: a.Local, Domain: d}, nil
	}
	to, err := parseValue(value, f.origin)
	if err == nil && f.propagate && by.extension != "" {
		to.Local += mail.LocalPart(by.extension)
		to, err = mail.ParseAddress(to.String())
	}
	if err != nil {
		return a, badValue(table, by.key, value, err)
	}
	return to, nil
}

func badValue(table, key, value string, err error) error {
	return status.Errorf(status.ConfigurationError, "table %s: %s stands for %q, which is no address: %w", table, key, value, err)
}

// parseValue reads an address, whose domain may be left out.
func parseValue(value string, origin mail.Domain) (mail.Address, error) {
	a, err := mail.ParseAddress(value)
	if err == nil {
		return a, nil
	}
	if strings.ContainsAny(value[:min(1, len(value))], "|/:") {
		return a, errDelivery
	}
	if bare, bareErr := mail.ParseAddress(value + "@" + string(origin)); bareErr == nil {
		return bare, nil
	}
	return a, err
}

var errDelivery = errors.New("commands, files and includes are not delivered to")
