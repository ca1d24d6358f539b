package ldap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/status"
)

const (
	// pageSize is how many entries are asked for at once when many may come:
	// below the limits servers set by default (AD 1000, OpenLDAP 500).
	pageSize = 500
	// maxEntries bounds a search without a limit of its own.
	maxEntries = 1 << 20
)

var scopes = map[directory.Scope]int{
	directory.ScopeBase: goldap.ScopeBaseObject,
	directory.ScopeOne:  goldap.ScopeSingleLevel,
	directory.ScopeSub:  goldap.ScopeWholeSubtree,
}

// dereferences are the values of Config.Dereference.
var dereferences = map[string]int{
	"": goldap.NeverDerefAliases, "never": goldap.NeverDerefAliases, "searching": goldap.DerefInSearching,
	"finding": goldap.DerefFindingBaseObj, "always": goldap.DerefAlways,
}

// Search implements directory.Searcher. Passwords are never returned, even
// when the server shows them.
func (c *Client) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	part, err := ask(ctx, c, searches, func(l *goldap.Conn) (found, error) { return c.search(l, req) })
	entries := part.entries
	if err == nil && len(part.elsewhere) > 0 {
		entries, err = c.chase(ctx, req, part)
	}
	if err != nil {
		if status.Of(err) != status.DirectoryDown {
			err = status.New(status.DirectoryDown, err)
		}
		return nil, fmt.Errorf("search below %.200q: %w", req.Base, err)
	}
	return entries, nil
}

// Distant implements directory.Distant.
func (c *Client) Distant() bool { return true }

// found is what one server returned.
type found struct {
	entries   []directory.Entry
	elsewhere []string // LDAP URLs of servers that know more
}

// search runs one request on a connection, page by page when many entries may
// come.
func (c *Client) search(l *goldap.Conn, req directory.Request) (found, error) {
	limit := req.SizeLimit
	if limit <= 0 || limit > maxEntries {
		limit = maxEntries
	}
	r := goldap.NewSearchRequest(string(req.Base), scopes[req.Scope], dereferences[c.cfg.Dereference],
		0, 0, false, req.Filter.String(), req.Attributes, nil)
	var paging *goldap.ControlPaging
	if limit <= pageSize {
		r.SizeLimit = limit
	} else {
		paging = goldap.NewControlPaging(pageSize)
		r.Controls = []goldap.Control{paging}
	}
	var all found
	for {
		result, err := l.Search(r)
		if err != nil {
			if to := c.listedOf(referralsOf(err)); len(to) > 0 {
				return found{elsewhere: to}, nil
			}
			return found{}, resultError(err)
		}
		if len(all.entries)+len(result.Entries) > limit {
			return found{}, fmt.Errorf("%w (%d)", directory.ErrSizeLimit, limit)
		}
		for _, one := range result.Entries {
			e, err := convert(l, one)
			if err != nil {
				return found{}, err
			}
			all.entries = append(all.entries, e)
		}
		all.elsewhere = append(all.elsewhere, result.Referrals...)
		next, _ := goldap.FindControl(result.Controls, goldap.ControlTypePaging).(*goldap.ControlPaging)
		if paging == nil || next == nil || len(next.Cookie) == 0 {
			if paging != nil && len(all.entries) == 0 {
				if err := exists(l, req.Base); err != nil {
					return found{}, err
				}
			}
			return c.whole(all)
		}
		paging.SetCookie(next.Cookie)
	}
}

// exists returns the error of reading a base that is not there. 389 Directory
// Server (2.3) answers a paged search below such a base like one that finds
// nothing, and a mistake in a configuration would look like a directory in which
// nobody is.
func exists(l *goldap.Conn, base directory.DN) error {
	_, err := l.Search(goldap.NewSearchRequest(string(base), goldap.ScopeBaseObject, goldap.NeverDerefAliases,
		1, 0, false, "(objectClass=*)", []string{"1.1"}, nil))
	if err != nil {
		return resultError(err)
	}
	return nil
}

// whole returns an answer with the references that remain to be followed, or an
// error when it may be no answer for those that are not.
func (c *Client) whole(all found) (found, error) {
	if len(all.entries) == 0 && !c.cfg.IgnoreReferences {
		rest := slices.DeleteFunc(slices.Clone(all.elsewhere), func(uri string) bool { return c.listed(uri) != nil })
		if err := unanswered(rest); err != nil {
			return found{}, err
		}
	}
	all.elsewhere = c.listedOf(all.elsewhere)
	return all, nil
}

// partitions are what Active Directory refers to at each search from a
// domain's root, and what holds no people.
var partitions = []string{"cn=configuration,", "dc=domaindnszones,", "dc=forestdnszones,"}

// unanswered returns an error when a search that found nothing was referred to
// other servers for a part of the tree (RFC 4511 section 4.5.3): what is not
// here may be there, so nobody knows. That is an answer of a server in order.
func unanswered(references []string) error {
	for _, reference := range references {
		_, rest, _ := strings.Cut(reference, "://")
		_, dn, _ := strings.Cut(rest, "/")
		dn = strings.ToLower(dn)
		if !slices.ContainsFunc(partitions, func(p string) bool { return strings.HasPrefix(dn, p) }) {
			return status.Errorf(status.DirectoryDown, "nothing found here, and the server refers to %.200q for a part of the tree", reference)
		}
	}
	return nil
}

// resultError names the results that callers tell apart.
func resultError(err error) error {
	var result *goldap.Error
	if !errors.As(err, &result) {
		return err
	}
	switch result.ResultCode {
	case goldap.LDAPResultNoSuchObject:
		return errors.Join(directory.ErrNoSuchBase, err)
	case goldap.LDAPResultSizeLimitExceeded, goldap.LDAPResultAdminLimitExceeded:
		return errors.Join(directory.ErrSizeLimit, err)
	case goldap.LDAPResultReferral:
		return fmt.Errorf("the server refers to another one, which is not followed: %w", err)
	}
	return err
}

// convert returns an entry with all values of each attribute. AD returns long
// attributes in ranges, "member;range=0-1499", of which the last ends in "*".
func convert(l *goldap.Conn, found *goldap.Entry) (directory.Entry, error) {
	attributes := make(map[string][]string, len(found.Attributes))
	for _, a := range found.Attributes {
		name, next, ranged := cutRange(a.Name)
		if strings.EqualFold(name, "userPassword") || strings.EqualFold(name, "unicodePwd") {
			continue
		}
		attributes[name] = append(attributes[name], a.Values...)
		for ranged && next > 0 {
			values, after, err := readRange(l, found.DN, name, next)
			if err != nil {
				return directory.Entry{}, err
			}
			attributes[name] = append(attributes[name], values...)
			next = after
		}
	}
	return directory.NewEntry(directory.DN(found.DN), attributes), nil
}

// cutRange splits "member;range=0-1499"; next is where the following range
// begins, 0 when this was the last.
func cutRange(description string) (name string, next int, ranged bool) {
	name, option, found := strings.Cut(description, ";")
	if !found || !strings.HasPrefix(strings.ToLower(option), "range=") {
		return description, 0, false
	}
	var from, to int
	if _, err := fmt.Sscanf(option[len("range="):], "%d-%d", &from, &to); err != nil {
		return name, 0, true // "1500-*"
	}
	return name, to + 1, true
}

// readRange reads the values of an attribute from a position on.
func readRange(l *goldap.Conn, dn, name string, from int) (values []string, next int, err error) {
	if from > maxEntries {
		return nil, 0, fmt.Errorf("%w: values of %s", directory.ErrSizeLimit, name)
	}
	result, err := l.Search(goldap.NewSearchRequest(dn, goldap.ScopeBaseObject, goldap.NeverDerefAliases, 1, 0, false,
		"(objectClass=*)", []string{fmt.Sprintf("%s;range=%d-*", name, from)}, nil))
	if err != nil {
		return nil, 0, resultError(err)
	}
	if len(result.Entries) == 1 {
		for _, a := range result.Entries[0].Attributes {
			got, after, ranged := cutRange(a.Name)
			if ranged && strings.EqualFold(got, name) && (after == 0 || after > from) {
				return a.Values, after, nil
			}
		}
	}
	return nil, 0, fmt.Errorf("the server did not return %s from value %d on", name, from)
}
