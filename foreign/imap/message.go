package imap

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Message is what FETCH told of a message; zero is what it did not.
type Message struct {
	UID    uint32
	ModSeq uint64
	// Flags and keywords in order, without \Recent; system flags as RFC 3501
	// writes them.
	Flags  []string
	Size   int64
	Date   string // INTERNALDATE, as the server wrote it
	ID     string // EMAILID of RFC 8474 or Dovecot's X-GUID
	Header string // the fields of Identity
}

// systemFlags are written in one way.
var systemFlags = []string{`\Answered`, `\Flagged`, `\Deleted`, `\Seen`, `\Draft`}

// Flag writes a flag as it is compared.
func Flag(text string) string {
	for _, f := range systemFlags {
		if strings.EqualFold(f, text) {
			return f
		}
	}
	return text
}

// fetched reads a FETCH response.
func fetched(u *untagged) (Message, error) {
	var m Message
	if len(u.values) != 1 {
		return m, errMalformed
	}
	items := u.values[0].list
	for i := 0; i+1 < len(items); i += 2 {
		if err := m.read(strings.ToUpper(items[i].text), items[i+1]); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m *Message) read(name string, v value) (err error) {
	switch {
	case name == "UID":
		m.UID, err = v.uid()
	case name == "MODSEQ":
		if len(v.list) != 1 {
			return errMalformed
		}
		m.ModSeq, err = v.list[0].number()
	case name == "FLAGS":
		m.Flags = make([]string, 0, len(v.list))
		for _, f := range v.list {
			if !strings.EqualFold(f.text, `\Recent`) {
				m.Flags = append(m.Flags, Flag(f.text))
			}
		}
		slices.Sort(m.Flags)
		m.Flags = slices.Compact(m.Flags)
	case name == "RFC822.SIZE":
		var n uint64
		n, err = v.number()
		m.Size = int64(n)
	case name == "INTERNALDATE":
		m.Date = v.text
	case name == "X-GUID":
		m.ID = v.text
	case name == "EMAILID":
		if len(v.list) == 1 {
			m.ID = v.list[0].text
		}
	case strings.HasPrefix(name, "BODY[HEADER.FIELDS"):
		m.Header = v.text
	}
	return err
}

// Identity are the fields that tell messages apart.
const Identity = "BODY.PEEK[HEADER.FIELDS (MESSAGE-ID DATE FROM TO SUBJECT)]"

// Fetch tells each message of set its flags, size, date, id and Identity, as
// they come, and the flags of others that changed meanwhile.
func (c *Client) Fetch(ctx context.Context, set string, each func(Message) error) error {
	items := "UID FLAGS INTERNALDATE RFC822.SIZE MODSEQ"
	switch {
	case c.Has("OBJECTID"):
		items += " EMAILID"
	case c.xguid:
		items += " X-GUID"
	}
	return c.fetch(ctx, set, items+" "+Identity, each)
}

// FetchIDs tells each message of set its id, after Identifies.
func (c *Client) FetchIDs(ctx context.Context, set string, each func(Message) error) error {
	if c.xguid {
		return c.fetch(ctx, set, "UID X-GUID", each)
	}
	return c.fetch(ctx, set, "UID EMAILID", each)
}

// FetchFlags tells each message of set its flags.
func (c *Client) FetchFlags(ctx context.Context, set string, each func(Message) error) error {
	return c.fetch(ctx, set, "UID FLAGS MODSEQ", each)
}

func (c *Client) fetch(ctx context.Context, set, items string, each func(Message) error) error {
	return c.do(ctx, func(u *untagged) error {
		if u.name != "FETCH" {
			return nil
		}
		u.taken = true
		m, err := fetched(u)
		if err != nil || m.UID == 0 {
			return err
		}
		return each(m)
	}, "UID FETCH "+set+" ("+items+")")
}

// Body hands the text of a message to take while it arrives. found is false
// where there is no such message any more. What take does not read is skipped.
func (c *Client) Body(ctx context.Context, uid uint32, take func(size int64, r io.Reader) error) (found bool, err error) {
	c.sink = func(size int64, r io.Reader) error {
		found = true
		return take(size, progress{c, r})
	}
	defer func() { c.sink = nil }()
	err = c.do(ctx, func(u *untagged) error {
		if u.name != "FETCH" || len(u.values) != 1 {
			return nil
		}
		u.taken = true
		for i, v := range u.values[0].list {
			if i > 0 && u.values[0].list[i-1].is("BODY[]") && v.kind == kindString {
				found = true // a text short enough to be quoted
				return take(int64(len(v.text)), strings.NewReader(v.text))
			}
		}
		return nil
	}, fmt.Sprintf("UID FETCH %d (BODY.PEEK[])", uid))
	return found, err
}

// progress gives the server its time again with each piece that is read.
type progress struct {
	c *Client
	r io.Reader
}

func (p progress) Read(b []byte) (int, error) {
	p.c.extend()
	return p.r.Read(b)
}

// Search returns the UIDs of messages with a keyword, among those from first on.
func (c *Client) Search(ctx context.Context, keyword string, first uint32) ([]uint32, error) {
	var uids []uint32
	err := c.do(ctx, func(u *untagged) error {
		if u.name != "SEARCH" {
			return nil
		}
		for _, v := range u.values {
			if v.kind == kindList {
				continue // (MODSEQ n)
			}
			uid, err := v.uid()
			if err != nil {
				return err
			}
			uids = append(uids, uid)
		}
		return nil
	}, fmt.Sprintf("UID SEARCH UID %d:* KEYWORD %s", max(first, 1), keyword))
	return slices.DeleteFunc(uids, func(uid uint32) bool { return uid < first }), err
}

// Store adds flags to messages, or with add false takes them away, but for
// messages that changed after unchangedSince: these are returned. 0 is always.
func (c *Client) Store(ctx context.Context, set Set, unchangedSince uint64, add bool, flags []string) (modified Set, err error) {
	sign := "-"
	if add {
		sign = "+"
	}
	condition := ""
	if unchangedSince > 0 {
		condition = fmt.Sprintf(" (UNCHANGEDSINCE %d)", unchangedSince)
	}
	text, err := c.ask(ctx, take("FETCH"), fmt.Sprintf("UID STORE %s%s %sFLAGS.SILENT (%s)", set, condition, sign, strings.Join(flags, " ")))
	if e, ok := err.(*Error); ok && e.Code == "MODIFIED" {
		text, err = e.Text, nil
	}
	if code, args := parseCode(text); err == nil && code == "MODIFIED" && len(args) > 0 {
		modified, err = ParseSet(args[0].text)
	}
	return modified.Sorted(), err
}

// Expunge removes those of set that have \Deleted.
func (c *Client) Expunge(ctx context.Context, set Set) error {
	return c.do(ctx, take("VANISHED"), "UID EXPUNGE "+set.String())
}

// Append adds a message of size octets and returns what APPENDUID said.
func (c *Client) Append(ctx context.Context, name string, flags []string, date string, size int64, r io.Reader) (uidValidity, uid uint32, err error) {
	if strings.ContainsAny(date, "\"\\\r\n") {
		return 0, 0, fmt.Errorf("%w: INTERNALDATE %.40q", errMalformed, date)
	}
	when := ""
	if date != "" {
		when = ` "` + date + `"`
	}
	text, err := c.ask(ctx, nil, "APPEND ", quote(name), " ("+strings.Join(flags, " ")+")"+when+" ", literal{size, r})
	if err != nil {
		return 0, 0, err
	}
	code, args := parseCode(text)
	if code != "APPENDUID" || len(args) != 2 {
		return 0, 0, nil // the caller finds it by its mark
	}
	v, err := args[0].uid()
	if err == nil {
		uidValidity = v
		uid, err = args[1].uid()
	}
	return uidValidity, uid, err
}

// Copy copies messages to another mailbox. uids maps theirs to the copies'.
func (c *Client) Copy(ctx context.Context, set Set, to string) (uidValidity uint32, uids map[uint32]uint32, err error) {
	text, err := c.ask(ctx, nil, "UID COPY "+set.String()+" ", quote(to))
	if err != nil {
		return 0, nil, err
	}
	code, args := parseCode(text)
	if code != "COPYUID" || len(args) != 3 {
		return 0, nil, nil
	}
	if uidValidity, err = args[0].uid(); err != nil {
		return 0, nil, err
	}
	uids, err = pairs(args[1].text, args[2].text, int(set.Len()))
	return uidValidity, uids, err
}

// pairs matches the two sets of a COPYUID.
func pairs(from, to string, limit int) (map[uint32]uint32, error) {
	var lists [2][]uint32
	for i, text := range []string{from, to} {
		set, err := ParseSet(text)
		if err != nil {
			return nil, err
		}
		if lists[i], err = set.List(limit); err != nil {
			return nil, err
		}
	}
	if len(lists[0]) != len(lists[1]) {
		return nil, fmt.Errorf("%w: COPYUID with sets of %d and %d", errMalformed, len(lists[0]), len(lists[1]))
	}
	m := make(map[uint32]uint32, len(lists[0]))
	for i, uid := range lists[0] {
		m[uid] = lists[1][i]
	}
	return m, nil
}
