package operator

import (
	"fmt"
	"io"
	netmail "net/mail"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/backend/mailstore/text"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// shown is a message that is told of.
type shown struct {
	*work
	box  *found
	m    *mailstore.Message
	meta *mailstore.Meta // nil unless a field needs it
}

// field is something that is told of a message.
type field struct {
	name string
	// parts are those of the Meta that it needs; meta, that it needs one at all.
	meta  bool
	parts mailstore.MetaParts
	// reads: it shows what people wrote, which the audit notes.
	reads bool
	of    func(*shown) value
}

// maxFields bounds what is told of a message.
const maxFields = 100

// fieldList is what there is beside hdr.NAME, in the order of the help.
var fieldList = []field{
	{name: "user", of: func(s *shown) value { return value{text: s.account.Name()} }},
	{name: "mailbox", of: func(s *shown) value { return value{text: s.box.info.Name} }},
	{name: "mailbox-guid", of: func(s *shown) value { return value{text: imapd.MailboxID(s.box.info.GUID)} }},
	{name: "uid", of: func(s *shown) value { return number(uint32(s.m.UID)) }},
	{name: "seq", of: (*shown).seq},
	{name: "guid", of: func(s *shown) value { return value{text: imapd.EmailID(s.m)} }},
	{name: "threadid", meta: true, parts: mailstore.MetaHeader, of: func(s *shown) value { return value{text: imapd.ThreadID(s.m, s.meta.Header)} }},
	{name: "flags", of: func(s *shown) value { return words(flagNames(s.m)) }},
	{name: "modseq", of: func(s *shown) value { return number(s.m.ModSeq) }},
	{name: "size", of: func(s *shown) value { return number(s.m.Octets) }},
	{name: "date.received", of: func(s *shown) value { return date(s.m.InternalDate) }},
	{name: "date.saved", of: func(s *shown) value { return date(s.m.SaveDate) }},
	{name: "date.sent", meta: true, parts: mailstore.MetaHeader, of: (*shown).sent},
	{name: "preview", meta: true, reads: true, of: func(s *shown) value { return value{text: string(s.meta.Preview)} }},
	{name: "hdr", meta: true, parts: mailstore.MetaAll, reads: true, of: (*shown).header},
	{name: "body", meta: true, parts: mailstore.MetaAll, reads: true, of: (*shown).body},
	{name: "text", meta: true, parts: mailstore.MetaHeader, reads: true, of: (*shown).text},
	{name: "imap.envelope", meta: true, reads: true, of: func(s *shown) value { return value{text: string(s.meta.Envelope)} }},
	{name: "imap.body", meta: true, of: func(s *shown) value { return value{text: string(s.meta.Body)} }},
	{name: "imap.bodystructure", meta: true, of: func(s *shown) value { return value{text: string(s.meta.BodyStructure)} }},
}

// FieldNames lists what fetch tells, for help.
func FieldNames() []string {
	names := make([]string, 0, len(fieldList)+1)
	for _, f := range fieldList {
		names = append(names, f.name)
		if f.name == "hdr" {
			names = append(names, "hdr.NAME")
		}
	}
	return names
}

// fieldsNamed finds fields by the names that operators give; emailid is another
// name of guid.
func fieldsNamed(names []string) (fields []field, known []string, err error) {
	if len(names) > maxFields {
		return nil, nil, fmt.Errorf("more than %d fields", maxFields)
	}
	for _, name := range names {
		name = strings.ToLower(name)
		at := slices.IndexFunc(fieldList, func(f field) bool { return f.name == name || f.name == "guid" && name == "emailid" })
		head, isHeader := strings.CutPrefix(name, "hdr.")
		var f field
		switch {
		case isHeader && head != "":
			f = field{meta: true, parts: mailstore.MetaHeader, reads: true, of: func(s *shown) value { return value{text: headerValue(s.meta.Header, head)} }}
		case at >= 0:
			f = fieldList[at]
		default:
			return nil, nil, fmt.Errorf("no field is called %q; there are %s", name, strings.Join(FieldNames(), ", "))
		}
		f.name = name
		fields, known = append(fields, f), append(known, name)
	}
	return fields, known, nil
}

// metaMessages is how many messages' Metas are read at once.
const metaMessages = 100

// search tells which messages these are.
func (w *work) search() error {
	return w.eachMailbox(func(f *found) error {
		id := imapd.MailboxID(f.info.GUID)
		return w.pieces(f, func(some []*mailstore.Message) error {
			for _, m := range some {
				if err := w.row(value{text: id}, number(uint32(m.UID))); err != nil {
					return err
				}
			}
			w.done += int64(len(some))
			return nil
		})
	})
}

// fetch tells of messages what the fields say.
func (w *work) fetch() error {
	var meta, reads bool
	var parts mailstore.MetaParts
	for _, f := range w.fields {
		meta, reads, parts = meta || f.meta, reads || f.reads, parts|f.parts
	}
	before := w.done
	err := w.eachMailbox(func(f *found) error {
		return w.pieces(f, func(some []*mailstore.Message) error { return w.fetchSome(f, some, meta, parts) })
	})
	if n := w.done - before; n > 0 && reads {
		w.record(mail.Event{Kind: mail.EventOperator, Detail: "mailbox fetch", Count: n}, nil)
	}
	return err
}

func (w *work) fetchSome(f *found, some []*mailstore.Message, wanted bool, parts mailstore.MetaParts) error {
	for list := range slices.Chunk(some, metaMessages) {
		metas := make([]*mailstore.Meta, len(list))
		if wanted {
			var err error
			if metas, err = f.SomeOfMetas(w.ctx, list, parts); err != nil {
				return err
			}
			if slices.ContainsFunc(w.fields, func(f field) bool { return f.name == "preview" }) {
				if err := f.CompletePreviews(w.ctx, list, metas); err != nil {
					return err
				}
			}
		}
		for i, m := range list {
			if wanted && metas[i] == nil {
				continue // it is gone
			}
			if err := w.fetchOne(&shown{work: w, box: f, m: m, meta: metas[i]}); err != nil {
				return fmt.Errorf("UID %d: %w", m.UID, err)
			}
			w.done++
		}
	}
	return nil
}

func (w *work) fetchOne(s *shown) error {
	values := make([]value, len(w.fields))
	for i, f := range w.fields {
		values[i] = f.of(s)
	}
	return w.row(values...)
}

func date(t time.Time) value {
	if t.IsZero() {
		return value{}
	}
	return value{text: t.Format(time.RFC3339)}
}

func (s *shown) seq() value {
	i, _ := s.box.view.Find(s.m.UID)
	return number(i + 1)
}

// sent is the Date field, where it can be read.
func (s *shown) sent() value {
	t, err := netmail.ParseDate(headerValue(s.meta.Header, "Date"))
	if err != nil {
		return value{}
	}
	return date(t)
}

// headerValue is what fields of that name say, in UTF-8: unfolded, encoded-words
// decoded, one a line.
func headerValue(header []byte, name string) string {
	var values []string
	unfold := strings.NewReplacer("\r\n", "", "\n", "", "\r", "")
	fields := string(mime.Fields(header, []string{name}, false))
	for fields != "" {
		end := 0
		for {
			i := strings.IndexByte(fields[end:], '\n')
			if i < 0 {
				end = len(fields)
				break
			}
			end += i + 1
			if end == len(fields) || fields[end] != ' ' && fields[end] != '\t' {
				break
			}
		}
		_, v, found := strings.Cut(fields[:end], ":")
		if found {
			values = append(values, strings.TrimSpace(text.Decode(unfold.Replace(v))))
		}
		fields = fields[end:]
	}
	return strings.ToValidUTF8(strings.Join(values, "\n"), "\ufffd")
}

// section opens a part of the message.
func (s *shown) section(at func(body store.Body) (from, to int64)) value {
	return value{open: func() (io.ReadCloser, error) {
		body, err := s.box.BodyOf(s.ctx, s.m, s.meta)
		if err != nil {
			return nil, err
		}
		from, to := at(body)
		return struct {
			io.Reader
			io.Closer
		}{io.NewSectionReader(body, from, to-from), body}, nil
	}}
}

func (s *shown) text() value {
	return s.section(func(body store.Body) (int64, int64) { return 0, body.Size() })
}

func (s *shown) header() value {
	return s.section(func(store.Body) (int64, int64) { return 0, s.meta.Root.Header.End })
}

func (s *shown) body() value {
	return s.section(func(body store.Body) (int64, int64) { return s.meta.Root.Header.End, body.Size() })
}
