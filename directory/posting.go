package directory

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// posting is what a group's entry says of one who sends to it.
type posting int

const (
	posts      posting = iota // its members get the message
	moderated                 // its moderators get it in their place
	restricted                // he may not
)

// guarded reports whether not everybody may send to a group.
func (m *mapping) guarded(e Entry) bool {
	return Match(m.membersOnly, e) || Match(m.loginOnly, e) || m.isModerated(e) ||
		hasAny(e, m.PosterAttributes) || hasAny(e, m.PosterDomainAttributes) || hasAny(e, m.DeniedPosterAttributes)
}

// isModerated reports whether a group has moderators who read first. Without a
// filter the naming of moderators says so.
func (m *mapping) isModerated(e Entry) bool {
	if m.ModeratedFilter != "" {
		return Match(m.moderated, e)
	}
	return hasAny(e, m.ModeratorAttributes)
}

func hasAny(e Entry, attributes []string) bool {
	return slices.ContainsFunc(attributes, func(name string) bool { return len(e.Values(name)) > 0 })
}

// sender is a Poster as the directory knows him. The zero sender is a stranger
// whom nothing is believed of.
type sender struct {
	name     string       // of the account
	address  mail.Address // null when it is not believed
	loggedIn bool
}

// sender finds out who a Poster is. A reverse-path in a domain of this
// directory says nothing by itself: whoever logs in is known by that, and what
// anybody can write, anybody can forge.
func (d *Directory) sender(ctx context.Context, from mail.Poster, t *trace) (sender, error) {
	var s sender
	if !from.Address.IsNull() && (from.Trusted || !d.serves(from.Address.Domain)) {
		s.address = from.Address.Fold()
	}
	var account mail.Account
	var err error
	switch id := from.Identity; {
	case id != nil:
		s.loggedIn = true
		name := id.Authorization
		if name == "" {
			name = id.Authentication
		}
		if id.Source == d.cfg.Name {
			s.name = name
			return s, nil
		}
		if id.Source != "" { // a person of another directory: the same name is somebody else's here
			return s, nil
		}
		_, account, err = d.FindLogin(ctx, name)
	case s.address.IsNull() || !d.serves(s.address.Domain):
		return s, nil
	default:
		account, err = d.AccountOf(ctx, s.address)
	}
	if status.Of(err).Permanent() {
		t.decide("the sender is nobody of this directory")
		return s, nil
	}
	s.name = account.Name
	return s, err
}

// circle is everybody that attributes of a group's entry name.
type circle struct {
	names     map[string]bool
	addresses map[mail.Address]bool
	domains   map[mail.Domain]bool
}

func (c circle) holds(s sender) bool {
	return s.name != "" && c.names[s.name] ||
		!s.address.IsNull() && (c.addresses[s.address] || c.domains[s.address.Domain])
}

// maxCircles bounds the circles that are remembered: one may be as large as a
// group.
const maxCircles = 1000

// circle returns those that a group's entry names in a role, from memory or by
// asking for them with gather.
func (r *resolution) circle(ctx context.Context, role string, e Entry, gather func(*resolution) error) (circle, error) {
	return r.remembered(ctx, role+"\x00"+e.DN.Key(), gather)
}

// remembered is circle under a key of its own.
func (r *resolution) remembered(ctx context.Context, key string, gather func(*resolution) error) (circle, error) {
	ask := func(context.Context) (circle, error) {
		who := r.d.newResolution(r.start, r.trace)
		who.namesOnly = true
		if err := gather(who); err != nil {
			return circle{}, err
		}
		c := circle{names: map[string]bool{}, addresses: map[mail.Address]bool{}, domains: map[mail.Domain]bool{}}
		for _, name := range who.names {
			c.names[name] = true
		}
		for _, a := range who.outsiders {
			c.addresses[a.Fold()] = true
		}
		for _, domain := range who.domains {
			c.domains[domain] = true
		}
		return c, nil
	}
	if ctx.Value(liveKey{}) != nil {
		return ask(ctx) // what is remembered is what is doubted
	}
	return r.d.circles.get(ctx, key, ask)
}

// Belongs reports whether somebody is a member of the group that has an address,
// directly or through groups in it; a person's address is a group of one. Who
// sends from a domain of this directory is believed that only when he logged in
// or is Trusted. Reasons: NoSuchUser for a group that is not there, and those of
// Resolve that are transient.
func (d *Directory) Belongs(ctx context.Context, who mail.Poster, group mail.Address) (bool, error) {
	s, err := d.sender(ctx, who, nil)
	if err != nil {
		return false, fmt.Errorf("who is in %s: %w", group, err)
	}
	w, ok := d.want(group)
	if !ok {
		return false, status.Errorf(status.NoSuchUser, "%s is in no domain of directory %s", group, d.cfg.Name)
	}
	r := d.newResolution(group, nil)
	members, err := r.remembered(ctx, "everybody\x00"+group.Fold().String(), func(everybody *resolution) error {
		return everybody.lookUp(ctx, w, 0)
	})
	if err != nil {
		return false, fmt.Errorf("who is in %s: %w", group, err)
	}
	return members.holds(s), nil
}

// named is the circle of those that the values of attributes name.
func (r *resolution) named(ctx context.Context, role string, e Entry, attributes, domains []string) (circle, error) {
	return r.circle(ctx, role, e, func(who *resolution) error {
		for _, name := range domains {
			for _, v := range e.Values(name) {
				who.domain(v)
			}
		}
		return who.people(ctx, e, attributes)
	})
}

// mayPost decides whether the one the resolution is for may send to a group.
// Moderators may always, those refused by name never; of the rest whoever the
// entry asks for, and after that the moderators read first.
func (r *resolution) mayPost(ctx context.Context, e Entry) (posting, error) {
	m := r.d.mapping
	s, err := r.sender(ctx)
	if err != nil {
		return 0, err
	}
	moderators, err := r.named(ctx, "moderators", e, m.ModeratorAttributes, nil)
	if err != nil {
		return 0, err
	}
	isModerated := m.isModerated(e)
	if isModerated && moderators.holds(s) {
		r.trace.decide("%s: the sender is a moderator", e.DN)
		return posts, nil
	}
	allowed, err := r.allowed(ctx, e, s)
	switch {
	case err != nil:
		return 0, err
	case !allowed:
		r.trace.decide("%s: the sender may not send to this group", e.DN)
		return restricted, nil
	case isModerated:
		r.trace.decide("%s is moderated: its moderators get the message", e.DN)
		return moderated, nil
	}
	r.trace.decide("%s: the sender may send to this group", e.DN)
	return posts, nil
}

// allowed is mayPost without moderation.
func (r *resolution) allowed(ctx context.Context, e Entry, s sender) (bool, error) {
	m := r.d.mapping
	if Match(m.loginOnly, e) && !s.loggedIn {
		return false, nil
	}
	denied, err := r.named(ctx, "denied", e, m.DeniedPosterAttributes, nil)
	if err != nil || denied.holds(s) {
		return false, err
	}
	onlySome := hasAny(e, m.PosterAttributes) || hasAny(e, m.PosterDomainAttributes)
	if onlySome {
		posters, err := r.named(ctx, "posters", e, m.PosterAttributes, m.PosterDomainAttributes)
		if err != nil || posters.holds(s) {
			return err == nil, err
		}
	}
	if !Match(m.membersOnly, e) {
		return !onlySome, nil
	}
	members, err := r.circle(ctx, "members", e, func(who *resolution) error { return who.group(ctx, e, 0) })
	return err == nil && members.holds(s), err
}

// people works on everybody whom values of attributes name: by DN, by address
// or mailto: URL, by LDAP URL, or a whole domain as @example.com.
func (r *resolution) people(ctx context.Context, e Entry, attributes []string) error {
	for _, name := range attributes {
		for _, v := range e.Values(name) {
			if err := r.person(ctx, strings.TrimSpace(v)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *resolution) person(ctx context.Context, v string) error {
	scheme, rest, _ := strings.Cut(v, ":")
	switch {
	case strings.EqualFold(scheme, "ldap"):
		return r.memberURL(ctx, v, 1)
	case strings.EqualFold(scheme, "mailto"):
		text, err := url.PathUnescape(rest)
		if err != nil {
			r.malformed++
			return nil
		}
		v = text
	case strings.HasPrefix(v, "@"):
		r.domain(v[1:])
		return nil
	case strings.Contains(v, "="):
		return r.member(ctx, memberDN(v), 1)
	}
	for _, a := range r.memberAddresses([]string{v}) {
		if err := r.address(ctx, a, 1); err != nil {
			return err
		}
	}
	return nil
}

func (r *resolution) domain(v string) {
	domain, err := mail.ParseDomain(v)
	if err != nil {
		r.malformed++
		return
	}
	r.domains = append(r.domains, domain)
}

// guardedGroup works on a group that not everybody may send to. Whom it lets
// in may send to what is nested in it: its keepers put that there.
func (r *resolution) guardedGroup(ctx context.Context, e Entry, depth int) error {
	r.guarded = true
	if r.sender == nil || r.vouched {
		return r.members(ctx, e, depth)
	}
	verdict, err := r.mayPost(ctx, e)
	if err != nil {
		return err
	}
	r.vouched = true
	defer func() { r.vouched = false }()
	switch verdict {
	case restricted:
		r.restricted = e.DN
		return nil
	case moderated:
		before := len(r.recipients)
		if err := r.people(ctx, e, r.d.mapping.ModeratorAttributes); err != nil {
			return err
		}
		if len(r.recipients) == before {
			return status.Errorf(status.ConfigurationError, "group %q is moderated, and none of its moderators gets mail", e.DN)
		}
		return nil
	default:
		return r.members(ctx, e, depth)
	}
}
