package imapd

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// listArgs is a LIST with the options of RFC 5258.
type listArgs struct {
	patterns []pattern
	// root is true for LIST "" "", which asks for the delimiter alone.
	root bool

	onlySubscribed, onlySpecialUse, recursive bool
	returnSubscribed                          bool
	status                                    statusItems
	myRights                                  bool
	metadata                                  []string // entries
	extended                                  bool
}

func parseList(p *parser) (listArgs, error) {
	var a listArgs
	if err := p.sp(); err != nil {
		return a, err
	}
	if p.peek() == '(' {
		a.extended = true
		if err := p.list(func() error { return p.listSelection(&a) }); err != nil {
			return a, err
		}
		if a.recursive && !a.onlySubscribed {
			return a, syntax("RECURSIVEMATCH needs SUBSCRIBED")
		}
		if err := p.sp(); err != nil {
			return a, err
		}
	}
	if err := p.listPatterns(&a); err != nil {
		return a, err
	}
	if !p.take(' ') || p.i == len(p.b) {
		return a, nil
	}
	a.extended = true
	if word, err := p.word(); err != nil || word != "RETURN" {
		return a, syntax("expected RETURN")
	}
	if err := p.sp(); err != nil {
		return a, err
	}
	return a, p.list(func() error { return p.listReturn(&a) })
}

func (p *parser) listSelection(a *listArgs) error {
	word, err := p.word()
	switch {
	case err != nil:
		return err
	case word == "SUBSCRIBED":
		a.onlySubscribed = true
	case word == "SPECIAL-USE":
		a.onlySpecialUse = true
	case word == "RECURSIVEMATCH":
		a.recursive = true
	case word != "REMOTE": // there are none elsewhere to add
		return syntax("unknown selection option")
	}
	return nil
}

func (p *parser) listReturn(a *listArgs) error {
	word, err := p.word()
	switch {
	case err != nil:
		return err
	case word == "SUBSCRIBED":
		a.returnSubscribed = true
	case word == "METADATA":
		if err := p.sp(); err != nil {
			return err
		}
		a.metadata, err = p.entryNames(false)
		return err
	case word == "MYRIGHTS":
		a.myRights = true
	case word == "STATUS":
		if err := p.sp(); err != nil {
			return err
		}
		a.status, err = p.statusItems()
		return err
	case word != "CHILDREN" && word != "SPECIAL-USE": // both are always told
		return syntax("unknown return option")
	}
	return nil
}

// listPatterns reads the reference and one pattern, or a list of them.
func (p *parser) listPatterns(a *listArgs) error {
	wire, err := p.astring()
	if err != nil {
		return err
	}
	reference, err := p.decode(wire)
	if err != nil {
		return err
	}
	if err := p.sp(); err != nil {
		return err
	}
	octets := 0
	one := func() error {
		text, err := p.listMailbox()
		if err != nil {
			return err
		}
		octets += len(reference) + len(text)
		if len(reference)+len(text) > maxPatternOctets || octets > maxPatternsOctets || len(a.patterns) >= maxPatterns {
			return refuse("LIMIT", "Pattern is too long")
		}
		if text == "" {
			a.root = true
			return nil
		}
		a.patterns = append(a.patterns, newPattern(reference, text))
		return nil
	}
	if p.peek() != '(' {
		return one()
	}
	a.extended = true
	return p.list(one)
}

func parseLsub(p *parser) (listArgs, error) {
	a := listArgs{onlySubscribed: true}
	if err := p.sp(); err != nil {
		return a, err
	}
	return a, p.listPatterns(&a)
}

// listed is a name in the tree of mailboxes: a mailbox, a subscription to one
// that is gone, or a level that only has mailboxes below it.
type listed struct {
	mailstore.MailboxInfo
	children        bool // a mailbox lies below
	subscribedBelow bool // a subscribed name that was not listed itself lies below
}

// tree returns every name, levels without a mailbox included, sorted.
func tree(infos []mailstore.MailboxInfo) []listed {
	byName := make(map[string]*listed, len(infos))
	for _, info := range infos {
		byName[info.Name] = &listed{MailboxInfo: info}
	}
	for _, info := range infos {
		for name := info.Name; ; {
			i := strings.LastIndex(name, delimiter)
			if i < 0 {
				break
			}
			name = name[:i]
			parent := byName[name]
			if parent == nil {
				parent = &listed{MailboxInfo: mailstore.MailboxInfo{Name: name}}
				byName[name] = parent
			}
			parent.children = parent.children || info.Exists
		}
	}
	all := make([]listed, 0, len(byName))
	for _, l := range byName {
		all = append(all, *l)
	}
	slices.SortFunc(all, func(a, b listed) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (a *listArgs) matches(name string) bool {
	return slices.ContainsFunc(a.patterns, func(p pattern) bool { return p.match(name) })
}

// markSubscribedBelow notes, for RECURSIVEMATCH and LSUB, which names have
// subscribed names below that the patterns do not list.
func (a *listArgs) markSubscribedBelow(names []listed) {
	for _, l := range names {
		if !l.Subscribed || a.matches(l.Name) {
			continue
		}
		for name := l.Name; ; {
			i := strings.LastIndex(name, delimiter)
			if i < 0 {
				break
			}
			name = name[:i]
			at, found := slices.BinarySearchFunc(names, name, func(l listed, name string) int { return cmp.Compare(l.Name, name) })
			if found {
				names[at].subscribedBelow = true
			}
		}
	}
}

// wants reports whether a name is listed by LIST.
func (a *listArgs) wants(l listed) bool {
	switch {
	case !a.matches(l.Name):
		return false
	case a.recursive && l.subscribedBelow:
		return true
	case a.onlySubscribed || a.onlySpecialUse:
		return (l.Subscribed || !a.onlySubscribed) && (l.SpecialUse != "" || !a.onlySpecialUse)
	default:
		return l.Exists || l.children
	}
}

// list is LIST (RFC 3501 section 6.3.8, RFC 5258).
func (s *session) list(ctx context.Context, a listArgs) (result, error) {
	infos, err := s.mailboxes(ctx, a.patterns)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	if a.root {
		s.w.line(`* LIST (\Noselect) "` + s.separator() + `" ""`)
	}
	names := tree(infos)
	if a.recursive {
		a.markSubscribedBelow(names)
	}
	for _, l := range names {
		if !a.wants(l) {
			continue
		}
		s.writeList("LIST", l, s.attributes(&a, l))
		if a.recursive && l.subscribedBelow {
			s.w.str(` ("CHILDINFO" ("SUBSCRIBED"))`)
		}
		s.w.line("")
		if err := s.listMetadata(ctx, a.metadata, l); err != nil {
			return result{}, err
		}
		if a.myRights {
			if err := s.listMyRights(ctx, l); err != nil {
				return result{}, err
			}
		}
		if err := s.listStatus(ctx, a.status, l); err != nil {
			return result{}, err
		}
	}
	return result{}, nil
}

// listStatus adds the STATUS of RFC 5819 to a listed mailbox; one that was
// deleted meanwhile has none.
func (s *session) listStatus(ctx context.Context, items statusItems, l listed) error {
	if items == 0 || !l.Exists {
		return nil
	}
	p, err := s.locateFor(ctx, l.Name, toRead)
	if errors.Is(err, mailstore.ErrNoMailbox) || err == errNotPermitted {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	st, err := p.status(ctx, items)
	if errors.Is(err, mailstore.ErrNoMailbox) {
		return nil
	}
	if err != nil {
		return err
	}
	s.writeStatus(l.Name, items, st)
	return nil
}

// attributes are those that this client is told.
func (s *session) attributes(a *listArgs, l listed) []imap.MailboxAttr {
	if s.withoutSpecialUse() {
		l.SpecialUse = ""
	}
	return a.attributes(l)
}

func (a *listArgs) attributes(l listed) []imap.MailboxAttr {
	var attrs []imap.MailboxAttr
	if !l.Exists {
		attrs = append(attrs, imap.MailboxAttrNonExistent)
		if !a.extended { // RFC 5258 section 3: implied there, unknown to older clients
			attrs = append(attrs, imap.MailboxAttrNoSelect)
		}
	}
	if l.children {
		attrs = append(attrs, imap.MailboxAttrHasChildren)
	} else {
		attrs = append(attrs, imap.MailboxAttrHasNoChildren)
	}
	if l.Subscribed && (a.returnSubscribed || a.onlySubscribed) {
		attrs = append(attrs, imap.MailboxAttrSubscribed)
	}
	if l.SpecialUse != "" {
		attrs = append(attrs, l.SpecialUse)
	}
	return attrs
}

// writeList writes a LIST or LSUB response without its line end.
func (s *session) writeList(response string, l listed, attrs []imap.MailboxAttr) {
	s.w.str("* ")
	s.w.str(response)
	s.w.str(" (")
	for i, attr := range attrs {
		if i > 0 {
			s.w.char(' ')
		}
		s.w.str(string(attr))
	}
	s.w.str(`) "` + s.separator() + `" `)
	s.writeMailbox(l.Name)
}

// lsub is LSUB (RFC 3501 section 6.3.9): a level above a subscribed name that
// the pattern does not reach is listed with \Noselect.
func (s *session) lsub(ctx context.Context, a listArgs) (result, error) {
	infos, err := s.mailboxes(ctx, a.patterns)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	if a.root {
		s.w.line(`* LSUB (\Noselect) "` + s.separator() + `" ""`)
	}
	names := tree(infos)
	a.markSubscribedBelow(names)
	for _, l := range names {
		if !a.matches(l.Name) || !l.Subscribed && !l.subscribedBelow {
			continue
		}
		var attrs []imap.MailboxAttr
		if s.quirks.lsubFlags {
			attrs = s.attributes(&listArgs{}, l)
		} else if !l.Subscribed {
			attrs = append(attrs, imap.MailboxAttrNoSelect)
		}
		s.writeList("LSUB", l, attrs)
		s.w.line("")
	}
	return result{}, nil
}
