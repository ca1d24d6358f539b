// Package nss is a directory of the machine's own users: those of /etc/passwd
// and of whatever else the name service switch names, such as SSSD. Every user
// whose number lies in a range is somebody with mail: alice of /etc/passwd is
// alice@ each of our domains. Groups can be addresses, too.
//
// It is a directory.Searcher over questions for single names: nobody is listed.
// Who knows the users is asked through a small interface, because the C library
// is not asked in the daemon. That a source did not answer is an outage and
// never "no such user".
package nss

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Suffix is the DN under which the users and groups seem to lie.
const Suffix directory.DN = "dc=nss"

const (
	people directory.DN = "ou=people," + Suffix
	groups directory.DN = "ou=groups," + Suffix
)

// User of the machine.
type User struct {
	Name     string
	UID, GID uint32
	Comment  string // the GECOS field
	Home     string
}

// Group of the machine, with the names of those who belong to it beside those
// whose first group it is.
type Group struct {
	Name    string
	GID     uint32
	Members []string
}

// Users knows the machine's users. Implemented over the helper process. found
// is false for a name that every source was asked for and none has; an error
// says that it is not known.
type Users interface {
	User(ctx context.Context, name string) (u User, found bool, err error)
	Group(ctx context.Context, name string) (g Group, found bool, err error)
}

// Config of a Source.
type Config struct {
	// Domains of which every user has an address, the first one the primary.
	Domains []mail.Domain
	// FirstUID and LastUID are the range of users with mail; default 1000 and
	// no end. 65534, nobody, is never one.
	FirstUID, LastUID uint32
	// FirstGID and LastGID are the range of their first groups, and of groups
	// that are addresses; default 1 and no end.
	FirstGID, LastGID uint32
	// Groups makes groups addresses, but for those with the name of a user.
	Groups bool
	// Home is what homeDirectory becomes: %u and %n stand for the name, %d for
	// the first domain, %h for the home that the machine knows, %% for %.
	// Default "%h".
	Home string
}

// nobody is who the kernel shows for numbers it cannot.
const nobody = 65534

// Source implements directory.Searcher. Safe for concurrent use.
type Source struct {
	cfg   Config
	users Users
}

// New returns a source over users.
func New(cfg Config, users Users) (*Source, error) {
	if cfg.FirstUID == 0 {
		cfg.FirstUID = 1000
	}
	if cfg.FirstGID == 0 {
		cfg.FirstGID = 1
	}
	if cfg.Home == "" {
		cfg.Home = "%h"
	}
	if cfg.LastUID != 0 && cfg.LastUID < cfg.FirstUID || cfg.LastGID != 0 && cfg.LastGID < cfg.FirstGID {
		return nil, errors.New("the last user or group number lies before the first")
	}
	if err := CheckHome(cfg.Home); err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, users: users}, nil
}

// Where tells in explanations what was asked.
func (s *Source) Where() string { return "the system's users" }

// Search implements directory.Searcher for filters that ask for names or
// addresses. One that could match anybody is refused.
func (s *Source) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	if rule := directory.UnsupportedRule(req.Filter); rule != "" {
		return nil, status.Errorf(status.DirectoryDown, "filter %s: matching rule %s is not known here", req.Filter, rule)
	}
	base := req.Base.Key()
	if base != "" && !directory.KeyUnder(base, Suffix.Key()) {
		return nil, status.Errorf(status.DirectoryDown, "%w: %q", directory.ErrNoSuchBase, req.Base)
	}
	names, err := s.names(req)
	if err != nil {
		return nil, err
	}
	var found []directory.Entry
	for _, name := range names {
		entries, err := s.entries(ctx, base, name)
		if err != nil {
			return nil, status.New(status.DirectoryDown, err)
		}
		for _, e := range entries {
			if !inScope(e.DN.Key(), base, req.Scope) || !directory.Match(req.Filter, e) {
				continue
			}
			if req.SizeLimit > 0 && len(found) == req.SizeLimit {
				return nil, status.Errorf(status.DirectoryDown, "%w (%d)", directory.ErrSizeLimit, req.SizeLimit)
			}
			found = append(found, e.Select(req.Attributes))
		}
	}
	return found, nil
}

func inScope(key, base string, scope directory.Scope) bool {
	switch scope {
	case directory.ScopeBase:
		return key == base
	case directory.ScopeOne:
		return key != base && directory.ParentKey(key) == base
	default:
		return directory.KeyUnder(key, base)
	}
}

// names are those that the entries of a request can have, each once.
func (s *Source) names(req directory.Request) ([]string, error) {
	if req.Scope == directory.ScopeBase {
		if name, ok := nameOf(req.Base); ok {
			return []string{name}, nil
		}
		return nil, nil
	}
	values, ok := directory.RequiredValues(req.Filter)
	if !ok {
		return nil, status.Errorf(status.DirectoryDown, "filter %s: the system's users are not listed, only asked for by name", req.Filter)
	}
	var names []string
	for _, v := range values {
		name := v.Key
		switch v.Attribute {
		case "uid", "cn":
		case "mail":
			a, err := mail.ParseAddress(v.Key)
			if err != nil || !slices.Contains(s.cfg.Domains, a.Fold().Domain) {
				continue
			}
			name = string(a.Local)
		case "objectclass":
			return nil, status.Errorf(status.DirectoryDown, "filter %s: the system's users are not listed, only asked for by name", req.Filter)
		default:
			continue // no entry has it
		}
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// nameOf returns the name in the DN of an entry of ours.
func nameOf(dn directory.DN) (string, bool) {
	first, _, _ := strings.Cut(string(dn), ",")
	attribute, name, ok := strings.Cut(first, "=")
	if !ok || !strings.EqualFold(attribute, "uid") && !strings.EqualFold(attribute, "cn") {
		return "", false
	}
	return name, !strings.ContainsAny(name, `\+"`)
}

// entries are those of a name that lie at or below base.
func (s *Source) entries(ctx context.Context, base, name string) ([]directory.Entry, error) {
	wantsPeople := overlap(base, people.Key())
	wantsGroups := s.cfg.Groups && overlap(base, groups.Key())
	if !wantsPeople && !wantsGroups {
		return nil, nil
	}
	var entries []directory.Entry
	user, isUser, err := s.user(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", name, err)
	}
	if isUser && wantsPeople {
		entries = append(entries, s.userEntry(user))
	}
	if isUser || !wantsGroups {
		return entries, nil
	}
	// Most systems give every user a group of the same name: it is nobody else.
	group, isGroup, err := s.users.Group(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", name, err)
	}
	if isGroup && group.GID >= s.cfg.FirstGID && (s.cfg.LastGID == 0 || group.GID <= s.cfg.LastGID) && group.GID != nobody {
		entries = append(entries, s.groupEntry(group))
	}
	return entries, nil
}

func overlap(a, b string) bool { return directory.KeyUnder(a, b) || directory.KeyUnder(b, a) }

// user asks for a user with mail.
func (s *Source) user(ctx context.Context, name string) (User, bool, error) {
	u, found, err := s.users.User(ctx, name)
	if err != nil || !found {
		return User{}, false, err
	}
	ok := u.UID >= s.cfg.FirstUID && (s.cfg.LastUID == 0 || u.UID <= s.cfg.LastUID) && u.UID != nobody &&
		u.GID >= s.cfg.FirstGID && (s.cfg.LastGID == 0 || u.GID <= s.cfg.LastGID)
	return u, ok, nil
}

func (s *Source) userEntry(u User) directory.Entry {
	fullName, _, _ := strings.Cut(u.Comment, ",")
	attributes := map[string][]string{
		"objectClass": {"posixAccount"}, "uid": {u.Name}, "mail": s.addresses(u.Name), "homeDirectory": {s.home(u)},
		"uidNumber": {strconv.FormatUint(uint64(u.UID), 10)}, "gidNumber": {strconv.FormatUint(uint64(u.GID), 10)},
	}
	if fullName != "" {
		attributes["cn"] = []string{fullName}
	}
	return directory.NewEntry("uid="+escape(u.Name)+","+people, attributes)
}

func (s *Source) groupEntry(g Group) directory.Entry {
	return directory.NewEntry("cn="+escape(g.Name)+","+groups, map[string][]string{
		"objectClass": {"posixGroup"}, "cn": {g.Name}, "mail": s.addresses(g.Name), "memberUid": slices.Clone(g.Members),
		"gidNumber": {strconv.FormatUint(uint64(g.GID), 10)},
	})
}

// addresses of a name; none for one that cannot be a local-part.
func (s *Source) addresses(name string) []string {
	var list []string
	for _, domain := range s.cfg.Domains {
		if a, err := mail.ParseAddress(name + "@" + string(domain)); err == nil {
			list = append(list, a.String())
		}
	}
	return list
}

// home fills in the template.
func (s *Source) home(u User) string {
	var domain string
	if len(s.cfg.Domains) > 0 {
		domain = string(s.cfg.Domains[0])
	}
	return strings.NewReplacer("%%", "%", "%u", u.Name, "%n", u.Name, "%d", domain, "%h", u.Home).Replace(s.cfg.Home)
}

// CheckHome refuses a template with a letter that stands for nothing.
func CheckHome(template string) error {
	for rest := template; ; {
		_, after, found := strings.Cut(rest, "%")
		if !found {
			return nil
		}
		if after == "" || !strings.ContainsRune("undh%", rune(after[0])) {
			return fmt.Errorf("home %q: %%u and %%n stand for the name, %%d for the domain, %%h for the system's home, %%%% for %%", template)
		}
		rest = after[1:]
	}
}

// escape writes a name into a DN (RFC 4514 section 2.4).
func escape(name string) directory.DN {
	var b strings.Builder
	for i, r := range name {
		if strings.ContainsRune(`,+"\<>;=`, r) || i == 0 && r == '#' {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return directory.DN(b.String())
}
