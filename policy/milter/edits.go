package milter

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Bounds of what a filter may change in one message.
const (
	maxEdits       = 1000
	maxFieldOctets = 1 << 20 // of all fields it writes together
)

// edits collects what a filter asks to change, in terms of the whole message.
// It plays the changes through on the list of fields, so that later ones count
// places as they are by then.
type edits struct {
	allowed actions
	spaced  bool         // values come with the space behind the colon
	fields  []mail.Field // of the whole message
	ours    int          // how many at the top the filter does not see
	octets  int
	list    []mail.Edit
	quoted  string // why the message is to be held
	held    bool
}

func newEdits(o *options, message mail.Message) *edits {
	return &edits{allowed: o.actions, spaced: o.without(leadingSpace), fields: slices.Clone(message.Fields()), ours: message.Ours()}
}

// editNeeds is what must be agreed for each reply that edits.
var editNeeds = map[byte]actions{
	replyAddHeader:    actAddHeaders,
	replyInsertHeader: actAddHeaders,
	replyChangeHeader: actChangeHeaders,
	replyAddRcpt:      actAddRcpt,
	replyAddRcptArgs:  actAddRcptArgs,
	replyDeleteRcpt:   actDeleteRcpt,
	replyChangeFrom:   actChangeFrom,
	replyQuarantine:   actQuarantine,
	replyBody:         actChangeBody,
}

// permit reports whether a reply is an edit, and refuses one that was not
// agreed or is one too many.
func (e *edits) permit(reply byte) (isEdit bool, err error) {
	need, isEdit := editNeeds[reply]
	switch {
	case !isEdit:
		return false, nil
	case e.allowed&need == 0:
		return true, protocolError("the filter edits by %q, which it did not ask for at the beginning", string(reply))
	case len(e.list) >= maxEdits && reply != replyBody:
		return true, protocolError("more than %d edits", maxEdits)
	}
	return true, nil
}

// take notes one edit; those of the body are not its business.
func (e *edits) take(reply byte, data []byte) error {
	f := fields{rest: data}
	switch reply {
	case replyAddHeader:
		name, value := f.text(), f.optional()
		e.insert(&f, len(e.fields), name, value)
	case replyInsertHeader:
		at, name, value := f.uint32(), f.text(), f.optional()
		e.insert(&f, e.place(at), name, value)
	case replyChangeHeader:
		at, name, value := f.uint32(), f.text(), f.optional()
		e.change(&f, at, name, value)
	case replyAddRcpt, replyAddRcptArgs:
		r, err := parseRcpt(f.text(), f.optional())
		if err != nil {
			return err
		}
		e.list = append(e.list, mail.Edit{Add: r})
	case replyDeleteRcpt:
		a, err := parsePath(f.text())
		if err != nil {
			return err
		}
		e.list = append(e.list, mail.Edit{Remove: &a})
	case replyChangeFrom:
		a, err := parsePath(f.text())
		if err != nil {
			return err
		}
		e.list = append(e.list, mail.Edit{ReversePath: &a})
	case replyQuarantine:
		e.held, e.quoted = true, printable(f.optional())
	}
	return f.err
}

// place turns a filter's place for a new field into ours. Filters count the
// one field that the mail server itself puts on top: 0 is above it, 1 below.
// Ours, be they several or none, stay together on top, so that 0 is as 1: the
// filters that follow are to see what was inserted.
func (e *edits) place(at uint32) int {
	if at > 0 {
		at--
	}
	return e.ours + int(min(at, uint32(len(e.fields)-e.ours))) // #nosec G115 -- fields are few
}

func (e *edits) insert(f *fields, at int, name, value string) {
	field := e.field(f, name, value)
	if f.err != nil {
		return
	}
	e.fields = slices.Insert(e.fields, at, field)
	e.list = append(e.list, mail.Edit{Insert: &mail.InsertField{At: at, Field: field}})
}

// change replaces or, with an empty value, deletes the nth field of a name; a
// value for one that is not there is a new field at the end.
func (e *edits) change(f *fields, nth uint32, name, value string) {
	if f.err != nil {
		return
	}
	at := e.find(max(nth, 1), name)
	switch {
	case at < 0 && value == "":
		return
	case at < 0:
		e.insert(f, len(e.fields), name, value)
		return
	case value == "":
		e.fields = slices.Delete(e.fields, at, at+1)
		e.list = append(e.list, mail.Edit{Change: &mail.ChangeField{At: at}})
		return
	}
	field := e.field(f, name, value)
	if f.err == nil {
		e.fields[at] = field
		e.list = append(e.list, mail.Edit{Change: &mail.ChangeField{At: at, Field: field}})
	}
}

// find returns where the nth field of a name is, of those the filter sees, or -1.
func (e *edits) find(nth uint32, name string) int {
	for i, field := range e.fields[e.ours:] {
		if field.Is(name) {
			if nth--; nth == 0 {
				return e.ours + i
			}
		}
	}
	return -1
}

// field makes a field of what a filter wrote.
func (e *edits) field(f *fields, name, value string) mail.Field {
	if f.err != nil {
		return ""
	}
	if name == "" || strings.IndexFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == ':' }) >= 0 {
		f.fail("a field has the name " + strings.ToValidUTF8(name[:min(len(name), 80)], "?"))
		return ""
	}
	if e.octets += len(name) + len(value); e.octets > maxFieldOctets {
		f.fail("the filter writes too large a header")
		return ""
	}
	value = folded(value)
	if !e.spaced {
		value = " " + value
	}
	return mail.Field(name + ":" + value)
}

// folded gives a value the line ends of a message. A line that begins with no
// white space would be another field: it gets some. One of nothing but white
// space is left out.
func folded(value string) string {
	if !strings.ContainsAny(value, "\r\n") {
		return value
	}
	value = strings.ReplaceAll(strings.ReplaceAll(value, "\r\n", "\n"), "\r", "\n")
	var b strings.Builder
	for i, line := range strings.Split(value, "\n") {
		switch {
		case i == 0:
			b.WriteString(line)
			continue
		case strings.Trim(line, " \t") == "":
			continue
		}
		b.WriteString("\r\n")
		if line[0] != ' ' && line[0] != '\t' {
			b.WriteByte('\t')
		}
		b.WriteString(line)
	}
	return b.String()
}
