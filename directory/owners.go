package directory

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// ownersOf returns who may send as a. An address nobody has, or that nobody may
// send as, is NoSuchUser.
func (d *Directory) ownersOf(ctx context.Context, a mail.Address, t *trace) ([]string, error) {
	w, ok := d.want(a)
	if !ok {
		return nil, nil
	}
	h, err := d.find(ctx, w, t)
	if err != nil {
		return nil, err
	}
	r := d.newResolution(a, t)
	r.namesOnly = true
	if !h.isGroup || Match(d.mapping.shared, h.entry) {
		if err := r.expand(ctx, h, 0); err != nil {
			return nil, err
		}
	}
	for _, name := range d.mapping.SendAsAttributes {
		for _, v := range h.entry.Values(name) {
			if err := r.delegate(ctx, v); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(r.names)
	t.decide("may send as %s: %s", a, cmp.Or(strings.Join(r.names, ", "), "nobody"))
	if len(r.names) == 0 {
		return nil, status.Errorf(status.NoSuchUser, "nobody may send as %s", a)
	}
	return r.names, nil
}

// delegate adds the accounts that a value of a send-as attribute names: a DN
// of an account or group, or a login.
func (r *resolution) delegate(ctx context.Context, v string) error {
	if strings.Contains(v, "=") {
		return r.member(ctx, memberDN(v), 1)
	}
	r.addName(strings.ToLower(v))
	return nil
}
