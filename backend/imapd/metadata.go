package imapd

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
)

const (
	// maxMetadataOctets bounds a value.
	maxMetadataOctets = 32 << 10
	// maxMetadataName bounds an entry's name.
	maxMetadataName = 512
	// maxMetadataEntries bounds the entries one command names.
	maxMetadataEntries = 100

	privateEntries = "/private/"
	sharedEntries  = "/shared/"
)

// toAnnotate are the rights of which one is needed, besides toList, to read a
// mailbox's entries, and one's own to set (RFC 5464 section 3.3). Shared ones
// are set by those who may set flags: they are everybody's too.
const toAnnotate = acl.Read | acl.Seen | acl.Write | acl.Insert | acl.Post

// depths of GETMETADATA.
const depthInfinity = -1

type metadataArgs struct {
	server  bool // the mailbox is "": the server
	name    string
	entries []string
	depth   int
	maxSize *uint64
}

// entryName reads the name of an entry; letter case does not matter (RFC 5464
// section 3.2). Who asks for what lies below it may name all that is private,
// or shared.
func (p *parser) entryName(below bool) (string, error) {
	name, err := p.astring()
	if err != nil {
		return "", err
	}
	name = strings.ToLower(name)
	if below && (name+"/" == privateEntries || name+"/" == sharedEntries) {
		return name, nil
	}
	if !strings.HasPrefix(name, privateEntries) && !strings.HasPrefix(name, sharedEntries) {
		return "", syntax("entry is neither /private nor /shared")
	}
	if len(name) > maxMetadataName || strings.HasSuffix(name, "/") || strings.Contains(name, "//") ||
		strings.ContainsFunc(name, func(c rune) bool { return c < 0x20 || c > 0x7e || c == '*' || c == '%' }) {
		return "", syntax("invalid entry name")
	}
	return name, nil
}

// entryNames reads one entry name or a list of them.
func (p *parser) entryNames(below bool) (names []string, err error) {
	one := func() error {
		name, err := p.entryName(below)
		if err == nil && len(names) >= maxMetadataEntries {
			err = refuse("LIMIT", "Too many entries")
		}
		if err == nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
		return err
	}
	if p.peek() != '(' {
		err = one()
	} else if err = p.list(one); err == nil && len(names) == 0 {
		err = syntax("expected an entry name")
	}
	return names, err
}

// metadataMailbox reads a mailbox name, or "" for the server.
func (p *parser) metadataMailbox(a *metadataArgs) error {
	wire, err := p.astring()
	if err != nil {
		return err
	}
	if a.server = wire == ""; a.server {
		return nil
	}
	if a.name, err = p.decode(wire); err == nil {
		a.name, err = levels(a.name)
	}
	return err
}

func (p *parser) metadataOption(a *metadataArgs) error {
	word, err := p.word()
	if err != nil {
		return err
	}
	if err := p.sp(); err != nil {
		return err
	}
	switch word {
	case "MAXSIZE":
		n, err := p.number64()
		a.maxSize = &n
		return err
	case "DEPTH":
		depth, err := p.word()
		switch {
		case err != nil:
			return err
		case depth == "0", depth == "1":
			a.depth = int(depth[0] - '0')
		case depth == "INFINITY":
			a.depth = depthInfinity
		default:
			return syntax("unknown depth")
		}
		return nil
	}
	return syntax("unknown option")
}

// parseGetMetadata reads GETMETADATA. Its options stand before the mailbox in
// the grammar of RFC 5464, and behind it in its examples; both are understood.
func parseGetMetadata(p *parser) (a metadataArgs, err error) {
	if err = p.sp(); err != nil {
		return a, err
	}
	options := func() error {
		rest := p.b[p.i:]
		if p.peek() != '(' || bytes.HasPrefix(rest, []byte("(/")) || bytes.HasPrefix(rest, []byte(`("`)) || bytes.HasPrefix(rest, []byte("({")) {
			return nil
		}
		if err := p.list(func() error { return p.metadataOption(&a) }); err != nil {
			return err
		}
		return p.sp()
	}
	if err = options(); err != nil {
		return a, err
	}
	if err = p.metadataMailbox(&a); err != nil {
		return a, err
	}
	if err = p.sp(); err != nil {
		return a, err
	}
	if err = options(); err != nil {
		return a, err
	}
	a.entries, err = p.entryNames(a.depth != 0)
	return a, err
}

// annotated is where the entries of a mailbox, or of the server, are kept:
// shared ones with the mailbox, the client's own in its own account.
type annotated struct {
	place
	guid mailstore.GUID // zero for the server
}

// annotated finds the mailbox of a command. The caller closes it.
func (s *session) annotated(ctx context.Context, a *metadataArgs) (annotated, error) {
	if a.server {
		return annotated{place: place{account: s.account, who: s.who}}, nil
	}
	p, err := s.locateFor(ctx, a.name, toList)
	if err != nil {
		return annotated{}, err
	}
	if p.rights()&toAnnotate == 0 {
		p.close()
		return annotated{}, errNotPermitted
	}
	return annotated{p, p.info.GUID}, nil
}

// entries reads the entries there are, by name.
func (s *session) entries(ctx context.Context, at *annotated) (map[string][]byte, error) {
	found := make(map[string][]byte)
	accounts := []*mailstore.Account{s.account}
	if !at.own() {
		accounts = append(accounts, at.account)
	}
	for _, account := range accounts {
		list, err := account.Entries(ctx, mailstore.SpaceMetadata, at.guid)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			// The owner's own entries are no visitor's.
			if private := strings.HasPrefix(e.Key, privateEntries); private == (account == s.account) || at.own() {
				found[e.Key] = e.Value
			}
		}
	}
	return found, nil
}

// getMetadata is GETMETADATA (RFC 5464 section 4.2).
func (s *session) getMetadata(ctx context.Context, a metadataArgs) (result, error) {
	at, err := s.annotated(ctx, &a)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	defer at.close()
	found, err := s.entries(ctx, &at)
	if err != nil {
		return result{}, err
	}
	longest := s.writeMetadata(&a, found)
	if longest > 0 {
		return result{code: "METADATA LONGENTRIES " + strconv.Itoa(longest)}, nil
	}
	return result{}, nil
}

// writeMetadata writes the METADATA response and returns the octets of the
// longest value that was left out as too long. What was named and is not there
// is NIL.
func (s *session) writeMetadata(a *metadataArgs, found map[string][]byte) (longest int) {
	names := slices.Clone(a.entries)
	if a.depth != 0 {
		for name := range found {
			if !slices.Contains(names, name) && slices.ContainsFunc(a.entries, func(top string) bool { return a.covers(top, name) }) {
				names = append(names, name)
			}
		}
		// Of a tree only what is there is told.
		names = slices.DeleteFunc(names, func(name string) bool { return found[name] == nil })
		slices.Sort(names)
	}
	sep := ""
	for _, name := range names {
		value, there := found[name]
		if a.maxSize != nil && uint64(len(value)) > *a.maxSize {
			longest = max(longest, len(value))
			continue
		}
		if sep == "" {
			s.w.str("* METADATA ")
			if a.server {
				s.w.str(`""`)
			} else {
				s.writeMailbox(a.name)
			}
			sep = " ("
		}
		s.w.str(sep)
		s.w.astring(name)
		s.w.char(' ')
		if there {
			s.w.text(string(value))
		} else {
			s.w.str("NIL")
		}
		sep = " "
	}
	if sep != "" {
		s.w.line(")")
	}
	return longest
}

// covers reports whether name lies below top, as far down as was asked for.
func (a *metadataArgs) covers(top, name string) bool {
	rest, below := strings.CutPrefix(name, top+"/")
	return below && (a.depth == depthInfinity || !strings.Contains(rest, "/"))
}

type setMetadataArgs struct {
	metadataArgs
	values [][]byte // nil removes
}

// parseSetMetadata reads SETMETADATA.
func parseSetMetadata(p *parser) (a setMetadataArgs, err error) {
	if err = p.sp(); err != nil {
		return a, err
	}
	if err = p.metadataMailbox(&a.metadataArgs); err != nil {
		return a, err
	}
	if err = p.sp(); err != nil {
		return a, err
	}
	err = p.list(func() error {
		name, err := p.entryName(false)
		if err != nil {
			return err
		}
		if err := p.sp(); err != nil {
			return err
		}
		value, isText, err := p.text()
		if err == nil && !isText {
			if word, wordErr := p.word(); wordErr != nil || word != "NIL" {
				err = syntax("expected a string or NIL")
			}
		}
		if err == nil && slices.Contains(a.entries, name) {
			err = syntax("entry is set twice")
		}
		if err == nil && len(a.entries) >= maxMetadataEntries {
			err = refuse("METADATA TOOMANY", "Too many entries")
		}
		a.entries = append(a.entries, name)
		if isText {
			a.values = append(a.values, append([]byte{}, value...))
		} else {
			a.values = append(a.values, nil)
		}
		return err
	})
	if err == nil && len(a.entries) == 0 {
		err = syntax("expected an entry")
	}
	return a, err
}

// setMetadata is SETMETADATA (RFC 5464 section 4.3): all entries or none, but
// that one's own and the shared entries of somebody else's mailbox are two
// changes.
func (s *session) setMetadata(ctx context.Context, a setMetadataArgs) (result, error) {
	at, err := s.annotated(ctx, &a.metadataArgs)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	defer at.close()
	var own, shared []mailstore.Entry
	for i, name := range a.entries {
		if len(a.values[i]) > maxMetadataOctets {
			return result{}, refuse("METADATA MAXSIZE "+strconv.Itoa(maxMetadataOctets), "Value is too large")
		}
		e := mailstore.Entry{Space: mailstore.SpaceMetadata, Mailbox: at.guid, Key: name, Value: a.values[i]}
		if strings.HasPrefix(name, sharedEntries) {
			shared = append(shared, e)
		} else {
			own = append(own, e)
		}
	}
	switch {
	case len(shared) == 0:
	case a.server, !at.rights().Has(acl.Write):
		return result{}, errNotPermitted
	case at.own():
		own, shared = append(own, shared...), nil
	}
	err = at.account.SetEntries(ctx, shared)
	if err == nil {
		err = s.account.SetEntries(ctx, own)
	}
	if errors.Is(err, mailstore.ErrEntry) {
		err = refuse("METADATA TOOMANY", "Too many entries")
	}
	return result{}, mailboxError(err, "")
}

// listMetadata adds the entries of RFC 9590 to a listed mailbox.
func (s *session) listMetadata(ctx context.Context, names []string, l listed) error {
	if !l.Exists || len(names) == 0 {
		return nil
	}
	a := metadataArgs{name: l.Name, entries: names}
	at, err := s.annotated(ctx, &a)
	if errors.Is(err, mailstore.ErrNoMailbox) || err == errNotPermitted {
		return nil
	}
	if err != nil {
		return err
	}
	defer at.close()
	found, err := s.entries(ctx, &at)
	if err != nil {
		return err
	}
	s.writeMetadata(&a, found)
	return nil
}
