package file

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/status"
)

// limit is what the extra fields of one line of a Dovecot passwd-file say of
// who may log in.
type limit struct {
	noLogin  bool
	networks []netip.Prefix // nil for all
	local    bool           // clients of this machine without an address may, too
}

// extraField is where extra fields stand, counted from the hash: after uid,
// gid, gecos, home and shell.
const extraField = 6

// parseLimit reads the fields of a line after the login. Of the extra fields
// those that limit logins count: nologin and allow_nets. One that would let
// everybody in is a mistake. All others are about mailboxes, which are the
// directory's here. Shadow files have numbers there.
func parseLimit(fields string) (l limit, limited bool, err error) {
	parts := strings.SplitN(fields, ":", extraField+1)
	if len(parts) <= extraField {
		return limit{}, false, nil
	}
	for word := range strings.FieldsSeq(parts[extraField]) {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "nopassword":
			return limit{}, false, errors.New("nopassword would let everybody in without a password: take the field out")
		case "nologin":
			l.noLogin, limited = true, true
		case "allow_nets":
			limited = true
			if err := l.allow(value); err != nil {
				return limit{}, false, err
			}
		}
	}
	return l, limited, nil
}

// allow takes in the networks of allow_nets. None at all lets nobody in.
func (l *limit) allow(value string) error {
	l.networks = []netip.Prefix{}
	for text := range strings.SplitSeq(value, ",") {
		if text == "" {
			continue
		}
		if text == "local" {
			l.local = true
			continue
		}
		network, err := netip.ParsePrefix(text)
		if err != nil {
			var addr netip.Addr
			if addr, err = netip.ParseAddr(text); err == nil {
				network = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())
			}
		}
		if err != nil {
			return fmt.Errorf("allow_nets: %q is neither a network, an address nor local", text)
		}
		l.networks = append(l.networks, network)
	}
	return nil
}

// check refuses an attempt whose password is right but which the limit rules
// out: that says nothing of the password.
func (l limit) check(a authn.Attempt) error {
	if l.noLogin {
		return status.Errorf(status.AuthFailed, "the password file says nologin: %w", authn.ErrRightButRefused)
	}
	if l.networks == nil {
		return nil
	}
	if !a.Remote.IsValid() && l.local {
		return nil
	}
	from := a.Remote.Addr().Unmap().WithZone("")
	for _, network := range l.networks {
		if network.Contains(from) {
			return nil
		}
	}
	return status.Errorf(status.AuthFailed, "%s is in no network of allow_nets: %w", from, authn.ErrRightButRefused)
}
