package imap

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Mailbox is one line of a LIST, with what STATUS says of it.
type Mailbox struct {
	Name       string // as the server writes it: modified UTF-7
	Delimiter  string // of its hierarchy, "" for none
	Selectable bool
	Subscribed bool
	SpecialUse string // RFC 6154's attribute, such as \Sent; "" for none, or where the server does not tell
	Status            // zero where the server did not tell
}

// Status is where a mailbox stands.
type Status struct {
	UIDValidity, UIDNext, Messages uint32
	ModSeq                         uint64
	// ID names the mailbox through renames: MAILBOXID of RFC 8474 or
	// Dovecot's X-GUID, "" where the server has neither.
	ID string
}

// statusItems is what STATUS is asked for.
func (c *Client) statusItems() string {
	items := "MESSAGES UIDNEXT UIDVALIDITY"
	if c.Has("CONDSTORE") || c.Has("QRESYNC") {
		items += " HIGHESTMODSEQ"
	}
	switch {
	case c.Has("OBJECTID"):
		items += " MAILBOXID"
	case c.xguid:
		items += " X-GUID"
	}
	return items
}

// Probe finds out what no capability tells: Dovecot's X-GUID.
func (c *Client) Probe(ctx context.Context) error {
	if c.Has("OBJECTID") {
		return nil
	}
	err := c.do(ctx, take("STATUS"), `STATUS INBOX (X-GUID)`)
	if _, refused := Refused(err); refused {
		return nil
	}
	c.xguid = err == nil
	return err
}

// Identifies reports whether messages have an id that copies keep, Message.ID.
func (c *Client) Identifies() bool { return c.xguid || c.Has("OBJECTID") }

// take ignores a command's answers.
func take(name string) func(*untagged) error {
	return func(u *untagged) error {
		u.taken = u.taken || u.name == name
		return nil
	}
}

// Namespace returns the prefix and the delimiter of the personal namespace.
func (c *Client) Namespace(ctx context.Context) (prefix, delimiter string, err error) {
	if c.Has("NAMESPACE") {
		err = c.do(ctx, func(u *untagged) error {
			if u.name != "NAMESPACE" || len(u.values) == 0 {
				return nil
			}
			if spaces := u.values[0].list; len(spaces) > 0 && len(spaces[0].list) >= 2 {
				prefix, delimiter = spaces[0].list[0].text, spaces[0].list[1].text
			}
			return nil
		}, "NAMESPACE")
		return prefix, delimiter, err
	}
	err = c.do(ctx, func(u *untagged) error {
		if u.name == "LIST" && len(u.values) >= 2 {
			u.taken = true
			delimiter = u.values[1].text
		}
		return nil
	}, `LIST "" ""`)
	return prefix, delimiter, err
}

// List returns the mailboxes whose names begin with prefix, and INBOX, by name.
func (c *Client) List(ctx context.Context, prefix string) ([]Mailbox, error) {
	found := make(map[string]*Mailbox)
	patterns := []string{prefix + "*"}
	if prefix != "" {
		patterns = append(patterns, "INBOX")
	}
	for _, pattern := range patterns {
		if err := c.list(ctx, pattern, found); err != nil {
			return nil, err
		}
	}
	var all []Mailbox
	for _, m := range found {
		if !m.Selectable || m.UIDValidity != 0 {
			all = append(all, *m)
			continue
		}
		s, err := c.Status(ctx, m.Name)
		switch _, refused := Refused(err); {
		case refused:
			continue // it went meanwhile, or may not be read
		case err != nil:
			return nil, err
		}
		m.Status = s
		all = append(all, *m)
	}
	slices.SortFunc(all, func(a, b Mailbox) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (c *Client) list(ctx context.Context, pattern string, found map[string]*Mailbox) error {
	on := func(u *untagged) error { return listed(u, found) }
	if c.Has("LIST-EXTENDED") && c.Has("LIST-STATUS") {
		use := ""
		if c.Has("SPECIAL-USE") {
			use = " SPECIAL-USE"
		}
		return c.do(ctx, on, `LIST "" `, quote(pattern), " RETURN (SUBSCRIBED CHILDREN"+use+" STATUS ("+c.statusItems()+"))")
	}
	if err := c.do(ctx, on, `LIST "" `, quote(pattern)); err != nil {
		return err
	}
	return c.do(ctx, on, `LSUB "" `, quote(pattern))
}

// listed files an answer to LIST, LSUB or LIST with STATUS.
func listed(u *untagged, found map[string]*Mailbox) error {
	switch {
	case u.name == "STATUS" && len(u.values) == 2:
		u.taken = true
		if m := found[inbox(u.values[0].text)]; m != nil {
			return m.Status.read(u.values[1].list)
		}
	case (u.name == "LIST" || u.name == "LSUB") && len(u.values) >= 3:
		u.taken = true
		m := Mailbox{Name: inbox(u.values[2].text), Delimiter: u.values[1].text, Selectable: true}
		for _, attribute := range u.values[0].list {
			switch strings.ToLower(attribute.text) {
			case `\noselect`, `\nonexistent`:
				m.Selectable = false
			case `\subscribed`:
				m.Subscribed = true
			default:
				if use := specialUse(attribute.text); use != "" {
					m.SpecialUse = use
				}
			}
		}
		if u.name == "LSUB" {
			if known := found[m.Name]; known != nil && m.Selectable {
				known.Subscribed = true
			}
			return nil // a subscription without a mailbox is nobody's
		}
		if len(found) >= maxMailboxes {
			return fmt.Errorf("%w: more than %d mailboxes", errMalformed, maxMailboxes)
		}
		found[m.Name] = &m
	}
	return nil
}

// specialUse writes an attribute of RFC 6154 or RFC 8457 in the one way, "" for
// any other. Gmail's \Spam is \Junk.
func specialUse(attribute string) string {
	for _, use := range []string{`\All`, `\Archive`, `\Drafts`, `\Flagged`, `\Important`, `\Junk`, `\Sent`, `\Trash`} {
		if strings.EqualFold(attribute, use) {
			return use
		}
	}
	if strings.EqualFold(attribute, `\Spam`) {
		return `\Junk`
	}
	return ""
}

// maxMailboxes bounds an account.
const maxMailboxes = 100_000

// inbox writes INBOX in the one way in which it is compared.
func inbox(name string) string {
	if strings.EqualFold(name, "INBOX") {
		return "INBOX"
	}
	return name
}

func (s *Status) read(items []value) error {
	for i := 0; i+1 < len(items); i += 2 {
		if name := strings.ToUpper(items[i].text); name == "MAILBOXID" || name == "X-GUID" {
			id := items[i+1]
			if len(id.list) > 0 {
				id = id.list[0]
			}
			s.ID = id.text
			continue
		}
		n, err := items[i+1].number()
		if err != nil {
			return err
		}
		switch strings.ToUpper(items[i].text) {
		case "MESSAGES":
			s.Messages = uint32(n)
		case "UIDNEXT":
			s.UIDNext = uint32(n)
		case "UIDVALIDITY":
			s.UIDValidity = uint32(n)
		case "HIGHESTMODSEQ":
			s.ModSeq = n
		}
	}
	return nil
}

// Status asks where a mailbox stands.
func (c *Client) Status(ctx context.Context, name string) (Status, error) {
	var s Status
	err := c.do(ctx, func(u *untagged) error {
		if u.name == "STATUS" && len(u.values) == 2 && inbox(u.values[0].text) == inbox(name) {
			u.taken = true
			return s.read(u.values[1].list)
		}
		return nil
	}, "STATUS ", quote(name), " ("+c.statusItems()+")")
	return s, err
}

// Create, Delete, Rename, Subscribe and Unsubscribe are the commands of these names.
func (c *Client) Create(ctx context.Context, name string) error {
	return c.do(ctx, take("LIST"), "CREATE ", quote(name))
}

// Delete removes a mailbox with all that is in it.
func (c *Client) Delete(ctx context.Context, name string) error {
	return c.do(ctx, take("LIST"), "DELETE ", quote(name))
}

// Rename moves a mailbox and those below it.
func (c *Client) Rename(ctx context.Context, from, to string) error {
	return c.do(ctx, take("LIST"), "RENAME ", quote(from), " ", quote(to))
}

// Subscribe subscribes to a mailbox, or with on false no longer.
func (c *Client) Subscribe(ctx context.Context, name string, on bool) error {
	command := "SUBSCRIBE "
	if !on {
		command = "UNSUBSCRIBE "
	}
	return c.do(ctx, take("LIST"), command, quote(name))
}

// Selected is a mailbox as SELECT told it.
type Selected struct {
	Name                 string
	UIDValidity, UIDNext uint32
	ModSeq               uint64 // 0: the mailbox keeps none
	ReadOnly             bool
	permanent            map[string]bool // flags in lower case; nil where not told: all
	Vanished             Set             // since the position asked for
	Changed              []Message       // since the position asked for: UID, flags and ModSeq
	anyKeyword           bool
}

// Keeps reports whether the mailbox keeps a flag or keyword.
func (s *Selected) Keeps(flag string) bool {
	if s.permanent == nil || s.permanent[strings.ToLower(flag)] {
		return true
	}
	return s.anyKeyword && !strings.HasPrefix(flag, `\`)
}

// Position is up to where a mailbox is known.
type Position struct {
	UIDValidity uint32
	ModSeq      uint64
}

// Select selects a mailbox. With a position the answer holds what happened
// since, unless UIDVALIDITY is another one now.
func (c *Client) Select(ctx context.Context, name string, since *Position) (*Selected, error) {
	s := &Selected{Name: name}
	param := " (CONDSTORE)"
	if since != nil {
		param = fmt.Sprintf(" (QRESYNC (%d %d))", since.UIDValidity, max(since.ModSeq, 1))
	}
	text, err := c.ask(ctx, func(u *untagged) error { return s.read(u) }, "SELECT ", quote(name), param)
	if err != nil {
		return nil, err
	}
	if code, _ := parseCode(text); code == "READ-ONLY" {
		s.ReadOnly = true
	}
	s.Vanished = s.Vanished.Sorted()
	if s.UIDValidity == 0 {
		return nil, c.fail(fmt.Errorf("%w: SELECT without UIDVALIDITY", errMalformed))
	}
	return s, nil
}

func (s *Selected) read(u *untagged) error {
	switch u.name {
	case "OK":
		return s.code(parseCode(u.text))
	case "EXISTS", "RECENT", "FLAGS":
		u.taken = true
	case "VANISHED":
		u.taken = true
		set, err := vanished(u)
		s.Vanished = append(s.Vanished, set...)
		return err
	case "FETCH":
		u.taken = true
		m, err := fetched(u)
		if err == nil && m.UID != 0 {
			s.Changed = append(s.Changed, m)
		}
		return err
	}
	return nil
}

func (s *Selected) code(name string, args []value) error {
	if len(args) == 0 {
		return nil
	}
	switch name {
	case "UIDVALIDITY", "UIDNEXT", "HIGHESTMODSEQ":
		n, err := args[0].number()
		if err != nil {
			return err
		}
		switch name {
		case "UIDVALIDITY":
			s.UIDValidity = uint32(n)
		case "UIDNEXT":
			s.UIDNext = uint32(n)
		default:
			s.ModSeq = n
		}
	case "PERMANENTFLAGS":
		s.permanent = make(map[string]bool)
		for _, v := range args[0].list {
			s.permanent[strings.ToLower(v.text)] = true
		}
		s.anyKeyword = s.permanent[`\*`]
	}
	return nil
}

// vanished reads VANISHED with or without (EARLIER).
func vanished(u *untagged) (Set, error) {
	if len(u.values) == 0 {
		return nil, errMalformed
	}
	return ParseSet(u.values[len(u.values)-1].text)
}

// Unselect leaves the selected mailbox and expunges nothing.
func (c *Client) Unselect(ctx context.Context) error {
	if c.Has("UNSELECT") {
		return c.do(ctx, nil, "UNSELECT")
	}
	// Selecting what does not exist leaves the mailbox too.
	err := c.do(ctx, nil, `EXAMINE ""`)
	if _, refused := Refused(err); refused {
		return nil
	}
	return err
}
