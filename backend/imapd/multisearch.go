package imapd

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
)

// sourceKind says how a source of ESEARCH names mailboxes (RFC 7377 section 2.2).
type sourceKind uint8

const (
	sourceSelected sourceKind = iota
	sourceInboxes
	sourcePersonal
	sourceSubscribed
	sourceMailboxes
	sourceSubtree
	sourceSubtreeOne
)

var sourceWords = map[string]sourceKind{
	"SELECTED": sourceSelected, "INBOXES": sourceInboxes, "PERSONAL": sourcePersonal, "SUBSCRIBED": sourceSubscribed,
	"MAILBOXES": sourceMailboxes, "SUBTREE": sourceSubtree, "SUBTREE-ONE": sourceSubtreeOne,
}

// source is one of the sources behind IN.
type source struct {
	kind  sourceKind
	names []string // of the kinds from sourceMailboxes on
}

// maxSourceNames bounds the names in one command.
const maxSourceNames = 1000

// multiSearchArgs is an ESEARCH command.
type multiSearchArgs struct {
	searchArgs
	sources []source // never empty
}

// onlySelected reports whether nothing but the selected mailbox is searched.
func (a *multiSearchArgs) onlySelected() bool {
	return !slices.ContainsFunc(a.sources, func(s source) bool { return s.kind != sourceSelected })
}

// parseMultiSearch reads ESEARCH (RFC 7377).
func parseMultiSearch(p *parser) (multiSearchArgs, error) {
	a := multiSearchArgs{searchArgs: searchArgs{uid: true}, sources: []source{{kind: sourceSelected}}}
	if err := p.sp(); err != nil {
		return a, err
	}
	if p.followsFold("IN (") {
		p.i += len("IN ")
		if err := p.searchSources(&a); err != nil {
			return a, err
		}
		if err := p.sp(); err != nil {
			return a, err
		}
	}
	sp := &searchParser{parser: p, args: &a.searchArgs}
	if err := sp.options(); err != nil {
		return a, err
	}
	if err := sp.program(); err != nil {
		return a, err
	}
	if !a.returns.given {
		a.returns.want = returnAll
	}
	if a.onlySelected() {
		return a, nil
	}
	// Numbers, "$" and contexts are of the selected mailbox.
	if a.numbers || a.returns.want&(returnSave|returnUpdate) != 0 {
		return a, syntax("sequence numbers, SAVE and UPDATE are for the selected mailbox alone")
	}
	return a, nil
}

// followsFold is follows whatever the letter case.
func (p *parser) followsFold(s string) bool {
	return len(p.b)-p.i >= len(s) && strings.EqualFold(string(p.b[p.i:p.i+len(s)]), s)
}

func (p *parser) searchSources(a *multiSearchArgs) error {
	a.sources = nil
	names := 0
	err := p.list(func() error {
		word, err := p.word()
		if err != nil {
			return err
		}
		kind, known := sourceWords[word]
		if !known {
			return syntax("unknown source of mailboxes")
		}
		from := source{kind: kind}
		if kind >= sourceMailboxes {
			if from.names, err = p.sourceNames(); err != nil {
				return err
			}
		}
		a.sources = append(a.sources, from)
		if names += len(from.names) + 1; names > maxSourceNames {
			return refuse("LIMIT", "Too many mailboxes are named")
		}
		return nil
	})
	if err == nil && len(a.sources) == 0 {
		err = syntax("expected a source of mailboxes")
	}
	return err
}

// sourceNames reads a space and one name, or several in parentheses.
func (p *parser) sourceNames() (names []string, err error) {
	if err = p.sp(); err != nil {
		return nil, err
	}
	one := func() error {
		wire, err := p.astring()
		if err != nil {
			return err
		}
		name, err := p.decode(wire)
		if err == nil {
			name, err = levels(name)
		}
		if err == nil { // a name that none can have is that of no mailbox
			names = append(names, name)
		}
		return nil
	}
	if p.peek() == '(' {
		return names, p.list(one)
	}
	return names, one()
}

// multiSearch is the command ESEARCH (RFC 7377): one response for each mailbox
// in which something is found.
func (s *session) multiSearch(ctx context.Context, a multiSearchArgs) (result, error) {
	if slices.ContainsFunc(a.sources, func(f source) bool { return f.kind == sourceSelected }) && s.box == nil {
		return result{}, syntax("no mailbox is selected")
	}
	if err := s.mayCharset(&a.searchArgs); err != nil {
		if s.box != nil {
			s.failedSave(&a.searchArgs, err)
		}
		return result{}, err
	}
	if a.onlySelected() {
		return s.searchSelected(ctx, &a.searchArgs)
	}
	if a.modSeq {
		s.enableCondstore()
	}
	names, err := s.sourceMailboxes(ctx, a.sources)
	if err != nil {
		return result{}, err
	}
	began, seen := time.Now(), make(map[mailstore.GUID]bool)
	for _, name := range names {
		if err := s.goOn(ctx); err != nil {
			return result{}, err
		}
		if err := s.searchMailbox(ctx, &a.searchArgs, name, began, seen); err != nil {
			return result{}, err
		}
	}
	return result{}, nil
}

// searchSelected is ESEARCH in the selected mailbox alone, which may do all
// that SEARCH may.
func (s *session) searchSelected(ctx context.Context, a *searchArgs) (result, error) {
	if err := errors.Join(s.mayUpdate(a), s.box.readable()); err != nil {
		return result{}, err
	}
	found, err := s.searched(ctx, a)
	if err != nil {
		s.failedSave(a, err)
		return result{}, err
	}
	if len(found) > 0 && a.returns.want != returnSave {
		s.writeMultiSearch(a, s.box.prefix+s.box.mailbox.Info().Name, &s.box.ground, found)
	}
	s.update(a, nil, found)
	return s.save(a, found), nil
}

// sourceMailboxes lists the names of what is to be searched, each once: those
// named by the client, and of the others those that it may see.
func (s *session) sourceMailboxes(ctx context.Context, sources []source) ([]string, error) {
	var names []string
	var tree []mailstore.MailboxInfo
	for _, from := range sources {
		switch from.kind {
		case sourceSelected:
			names = append(names, s.box.prefix+s.box.mailbox.Info().Name)
			continue
		case sourceInboxes:
			names = append(names, inbox)
			continue
		case sourceMailboxes:
			names = append(names, from.names...)
			continue
		}
		if tree == nil {
			var err error
			if tree, err = s.mailboxes(ctx, []pattern{newPattern("", "*")}); err != nil {
				return nil, mailboxError(err, "")
			}
			slices.SortFunc(tree, func(a, b mailstore.MailboxInfo) int { return cmp.Compare(a.Name, b.Name) })
		}
		for _, m := range tree {
			if m.Exists && s.sourceHas(&from, m) {
				names = append(names, m.Name)
			}
		}
	}
	seen := make(map[string]bool, len(names))
	return slices.DeleteFunc(names, func(name string) bool {
		again := seen[name]
		seen[name] = true
		return again
	}), nil
}

// sourceHas reports whether a mailbox that is there belongs to the source.
func (s *session) sourceHas(from *source, m mailstore.MailboxInfo) bool {
	switch from.kind {
	case sourcePersonal:
		// Virtual mailboxes show what lies in the others: it is found there.
		ns, _ := s.cfg.Sharing.namespaceOf(m.Name)
		return ns == nil && s.cfg.virtualOf(m.Name) == nil
	case sourceSubscribed:
		return m.Subscribed
	}
	return slices.ContainsFunc(from.names, func(top string) bool {
		below, ok := within(m.Name, top)
		return ok && (from.kind == sourceSubtree || !strings.Contains(below, delimiter))
	})
}

// searchMailbox searches one mailbox, unless it was searched before, is gone or
// may not be read.
func (s *session) searchMailbox(ctx context.Context, a *searchArgs, name string, began time.Time, seen map[mailstore.GUID]bool) error {
	at, err := s.open(ctx, name, toRead)
	switch {
	case errors.Is(err, mailstore.ErrNoMailbox), errors.Is(err, errNotPermitted):
		return nil
	case err != nil:
		return mailboxError(err, "")
	}
	defer at.close()
	if seen[at.info.GUID] {
		return nil
	}
	seen[at.info.GUID] = true
	v := at.shown.View()
	g := &ground{mailbox: at.shown, told: v, now: v}
	a.key.prepare(g, began)
	if err := s.boundAcross(a, g); err != nil {
		return err
	}
	found, err := s.searchGround(ctx, g, &a.key, reach{})
	if err != nil || len(found) == 0 {
		return err
	}
	s.writeMultiSearch(a, name, g, found)
	return nil
}

// writeMultiSearch writes a response with the correlators of RFC 7377 section 3.
func (s *session) writeMultiSearch(a *searchArgs, name string, g *ground, found []int) {
	w := &s.w
	w.str("* ESEARCH (TAG ")
	w.text(s.tag)
	w.str(" MAILBOX ")
	s.writeMailbox(name)
	w.str(" UIDVALIDITY ")
	w.num(uint64(g.told.UIDValidity()))
	w.str(") UID")
	s.writeReturned(g, a, found)
	w.line("")
}
