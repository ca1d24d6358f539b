package rewrite

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// maxSteps bounds how often a result is looked up again.
const maxSteps = 10

// finder looks addresses up in the forms of canonical(5).
type finder struct {
	order     table.Order
	propagate bool
	origin    mail.Domain
}

// find asks the tables for each form of a.
func (f finder) find(ctx context.Context, tables []table.Table, a mail.Address) (values []string, by table.Form, name string, err error) {
	values, by, from, err := table.Find(ctx, tables, a.String(), f.order.Virtual(a))
	if from != nil {
		name = from.Name()
	}
	if err != nil {
		err = unknown(name, err)
	}
	return values, by, name, err
}

// follow looks a up, and what it stands for, until nothing changes.
func (f finder) follow(ctx context.Context, tables []table.Table, a mail.Address) (mail.Address, error) {
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
func (f finder) step(ctx context.Context, tables []table.Table, a mail.Address) (mail.Address, error) {
	values, by, name, err := f.find(ctx, tables, a)
	if err != nil || len(values) == 0 {
		return a, err
	}
	if len(values) > 1 {
		return a, status.Errorf(status.ConfigurationError, "table %s: %s stands for %d addresses, not for one", name, by.Key, len(values))
	}
	return f.target(a, values[0], by, name)
}

// target reads a value: an address, "@domain", which keeps the local-part, or
// a local-part, which gets our domain.
func (f finder) target(a mail.Address, value string, by table.Form, name string) (mail.Address, error) {
	value = strings.TrimSpace(value)
	if domain, ok := strings.CutPrefix(value, "@"); ok {
		d, err := mail.ParseDomain(domain)
		if err != nil {
			return a, badValue(name, by.Key, value, err)
		}
		return mail.Address{Local: a.Local, Domain: d}, nil
	}
	to, err := parseValue(value, f.origin)
	if err == nil && f.propagate && by.Extension != "" {
		to.Local += mail.LocalPart(by.Extension)
		to, err = mail.ParseAddress(to.String())
	}
	if err != nil {
		return a, badValue(name, by.Key, value, err)
	}
	return to, nil
}

func badValue(table, key, value string, err error) error {
	return status.Errorf(status.ConfigurationError, "table %s: %s stands for %q, which is no address: %w", table, key, value, err)
}

// TableUse is what the entries of maps mean: keys are addresses, local-parts
// or @domain, and stand for the same, with commas between.
var TableUse = table.Use{Key: checkKey, Value: values}

func checkKey(key string) error {
	if domain, ok := strings.CutPrefix(key, "@"); ok {
		_, err := mail.ParseDomain(domain)
		return err
	}
	if !strings.Contains(key, "@") {
		key += "@bare.invalid"
	}
	_, err := mail.ParseAddress(key)
	return err
}

// values reads what a key stands for.
func values(text string) ([]string, error) {
	list := table.SplitList(text)
	for _, v := range list {
		checked := v
		if strings.HasPrefix(v, "@") {
			checked = "x" + v
		}
		if _, err := parseValue(checked, "bare.invalid"); err != nil {
			return nil, fmt.Errorf("%q is no address: %w", v, err)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("the key stands for nothing")
	}
	return list, nil
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
