package table

import (
	"context"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Form is one of the keys of an address.
type Form struct {
	Key string
	// Extension is what was cut off the local-part to make the key, delimiter
	// included, in the letter case it came in.
	Extension string
	// First marks the first key, for which tables of patterns are asked, too:
	// with the whole text instead.
	First bool
}

// Find asks the tables for each form, all tables for one before the next form:
// the first that has it decides. Tables of patterns are asked once, for whole.
// An error ends the search.
func Find[T Table](ctx context.Context, tables []T, whole string, forms iter.Seq[Form]) (values []string, by Form, from Table, err error) {
	if len(tables) == 0 {
		return nil, Form{}, nil, nil
	}
	for form := range forms {
		for _, t := range tables {
			if values, err = ask(ctx, t, IsWhole(t), whole, &form); err != nil || len(values) > 0 {
				return values, form, t, err
			}
		}
	}
	return nil, Form{}, nil, nil
}

// FindIn is Find in one table, for forms that are asked for again and again.
func FindIn(ctx context.Context, t Table, whole string, forms []Form) (values []string, by Form, err error) {
	patterns := IsWhole(t)
	for i := range forms {
		if values, err = ask(ctx, t, patterns, whole, &forms[i]); err != nil || len(values) > 0 {
			return values, forms[i], err
		}
	}
	return nil, Form{}, nil
}

// ask looks one form up, or in a table of patterns, for the first form, whole.
func ask(ctx context.Context, t Table, patterns bool, whole string, form *Form) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !patterns {
		return t.Lookup(ctx, form.Key)
	}
	if !form.First {
		return nil, nil
	}
	return t.Lookup(ctx, whole)
}

// keyed marks the first of keys.
func keyed(keys iter.Seq[Form]) iter.Seq[Form] {
	return func(yield func(Form) bool) {
		first := true
		for f := range keys {
			f.First = first
			if first = false; !yield(f) {
				return
			}
		}
	}
}

// Order is how the keys of an address are made.
type Order struct {
	// Delimiters are the characters of which the first in a local-part begins
	// its extension.
	Delimiters string
	// Local tells domains whose addresses a table may hold without the domain.
	Local func(mail.Domain) bool
}

// Cut separates the extension of an address, delimiter included. Addresses
// that every site has keep what looks like one.
func (o Order) Cut(a mail.Address) (base mail.Address, extension string, ok bool) {
	at := strings.IndexAny(string(a.Local), o.Delimiters)
	if o.Delimiters == "" || at <= 0 || slices.Contains([]string{"mailer-daemon", "double-bounce", "postmaster"}, strings.ToLower(string(a.Local))) {
		return a, "", false
	}
	if local := strings.ToLower(string(a.Local)); local[at] == '-' && (strings.HasPrefix(local, "owner-") || strings.HasSuffix(local, "-request")) {
		return a, "", false
	}
	return mail.Address{Local: a.Local[:at], Domain: a.Domain}, string(a.Local[at:]), true
}

// bases returns the address in small letters, and without its extension.
func (o Order) bases(a mail.Address) []based {
	all := append(make([]based, 0, 2), based{a.Fold(), ""})
	if base, extension, ok := o.Cut(a); ok {
		all = append(all, based{base.Fold(), extension})
	}
	return all
}

type based struct {
	address   mail.Address
	extension string
}

// spellings calls yield with a local-part in quotes, where it needs them, and
// without, each followed by rest.
func spellings(b based, rest string, yield func(Form) bool) bool {
	quoted := b.address.Local.String()
	if !yield(Form{Key: quoted + rest, Extension: b.extension}) {
		return false
	}
	return quoted == string(b.address.Local) || yield(Form{Key: string(b.address.Local) + rest, Extension: b.extension})
}

// Virtual is the order of virtual(5), canonical(5), generic(5), of maps of
// copies and of login names: user+ext@domain, user@domain, where the domain is
// ours user+ext and user, then @domain.
func (o Order) Virtual(a mail.Address) iter.Seq[Form] {
	return keyed(func(yield func(Form) bool) {
		all := o.bases(a)
		domain := string(all[0].address.Domain)
		for _, b := range all {
			if !spellings(b, "@"+domain, yield) {
				return
			}
		}
		if o.Local != nil && o.Local(all[0].address.Domain) {
			for _, b := range all {
				if !spellings(b, "", yield) {
					return
				}
			}
		}
		yield(Form{Key: "@" + domain})
	})
}

// Transport is the order of transport(5): user+ext@domain, user@domain,
// domain, .parent for each domain above it, and *.
func (o Order) Transport(a mail.Address) iter.Seq[Form] {
	return keyed(func(yield func(Form) bool) {
		all := o.bases(a)
		domain := string(all[0].address.Domain)
		for _, b := range all {
			if !spellings(b, "@"+domain, yield) {
				return
			}
		}
		if !yield(Form{Key: domain}) {
			return
		}
		if !all[0].address.Domain.IsLiteral() {
			for _, parent, found := strings.Cut(domain, "."); found; _, parent, found = strings.Cut(parent, ".") {
				if !yield(Form{Key: "." + parent}) {
					return
				}
			}
		}
		yield(Form{Key: "*"})
	})
}

// Sender is the order of sender_dependent_relayhost_maps and of passwords by
// sender: user+ext@domain, user@domain, @domain; <> for the null reverse-path.
func (o Order) Sender(a mail.Address) iter.Seq[Form] {
	return keyed(func(yield func(Form) bool) {
		if a.IsNull() {
			yield(Form{Key: "<>"})
			return
		}
		all := o.bases(a)
		domain := string(all[0].address.Domain)
		for _, b := range all {
			if !spellings(b, "@"+domain, yield) {
				return
			}
		}
		yield(Form{Key: "@" + domain})
	})
}

// Aliases is the order of aliases(5) for a local-part: user+ext, user.
func (o Order) Aliases(a mail.Address) iter.Seq[Form] {
	return keyed(func(yield func(Form) bool) {
		for _, b := range o.bases(a) {
			if !spellings(b, "", yield) {
				return
			}
		}
	})
}

// Access is the order of access(5) for an address: user+ext@domain,
// user@domain, domain and its parents, user+ext@, user@; <> for the null
// reverse-path. A parent counts for its subdomains with a dot before it, and
// without one too unless dotted.
func (o Order) Access(a mail.Address, dotted bool) iter.Seq[Form] {
	return keyed(func(yield func(Form) bool) {
		if a.IsNull() {
			yield(Form{Key: "<>"})
			return
		}
		all := o.bases(a)
		domain := all[0].address.Domain
		for _, b := range all {
			if !spellings(b, "@"+string(domain), yield) {
				return
			}
		}
		if domain != "" {
			for f := range Host(string(domain), dotted) {
				if !yield(f) {
					return
				}
			}
		}
		for _, b := range all {
			if !spellings(b, "@", yield) {
				return
			}
		}
	})
}

// Host is the order of access(5) for a name: the name and its parents.
func Host(name string, dotted bool) iter.Seq[Form] {
	return keyed(func(yield func(Form) bool) {
		if !yield(Form{Key: name}) || strings.HasPrefix(name, "[") {
			return
		}
		for {
			dot := strings.IndexByte(name, '.')
			if dot < 0 || !yield(Form{Key: name[dot:]}) {
				return
			}
			name = name[dot+1:]
			if !dotted && !yield(Form{Key: name}) {
				return
			}
		}
	})
}

// Network is the order of access(5) for an address of a host and its networks:
// 192.0.2.1, 192.0.2, 192.0, 192; for IPv6 the text cut at successive colons.
func Network(ip netip.Addr) iter.Seq[Form] {
	return keyed(func(yield func(Form) bool) {
		key, delimiter := ip.String(), "."
		if ip.Is6() {
			delimiter = ":"
		}
		for key != "" && yield(Form{Key: key}) {
			cut := strings.LastIndex(key, delimiter)
			if cut < 0 {
				return
			}
			key = strings.TrimRight(key[:cut], delimiter)
		}
	})
}
