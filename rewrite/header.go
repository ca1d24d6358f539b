package rewrite

import (
	"bytes"
	"context"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
)

// addressFields are the fields whose body is a list of addresses, by their
// names in small letters, and what those are.
var addressFields = map[string]Class{
	"from": HeaderSender, "sender": HeaderSender, "reply-to": HeaderSender, "errors-to": HeaderSender,
	"return-receipt-to": HeaderSender, "disposition-notification-to": HeaderSender,
	"resent-from": HeaderSender, "resent-sender": HeaderSender, "resent-reply-to": HeaderSender,
	"to": HeaderRecipient, "cc": HeaderRecipient, "bcc": HeaderRecipient, "apparently-to": HeaderRecipient,
	"resent-to": HeaderRecipient, "resent-cc": HeaderRecipient, "resent-bcc": HeaderRecipient,
}

// maxFieldName is longer than any of their names.
const maxFieldName = len("disposition-notification-to")

// headerPatience bounds the time that the tables take for one header.
const headerPatience = 30 * time.Second

// Header returns a message's header section as client's mail goes on with it,
// or nil when it goes on as it is: nothing in it changes, or the client is not
// one whose headers are rewritten. section ends with a whole field; its empty
// line need not be there. Reasons as Recipient's.
func (r *Rewriter) Header(ctx context.Context, client *mail.Client, section []byte) ([]byte, error) {
	origin, dotless := r.cfg.Origin, r.cfg.AppendDomain
	if !r.cfg.HeaderClients.Hold(client) {
		if r.cfg.RemoteDomain == "" {
			return nil, nil
		}
		if origin = r.cfg.RemoteDomain; dotless != "" {
			dotless = origin
		}
	}
	return header(ctx, section, func(ctx context.Context, a mail.Address, class Class) (mail.Address, error) {
		return r.address(ctx, a, class, origin, dotless)
	})
}

// change says what an address in a header becomes.
type change func(context.Context, mail.Address, Class) (mail.Address, error)

// header applies a change to every address in a header section. It returns nil
// when none changed.
func header(ctx context.Context, section []byte, to change) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, headerPatience)
	defer cancel()
	memo := newMemo(to)
	var out []byte
	copied := 0
	for at := 0; at < len(section); {
		class, body, end := field(section, at)
		if end == 0 {
			break
		}
		if class != "" {
			changed, err := fieldBody(ctx, section[body:end], class, memo)
			if err != nil {
				return nil, err
			}
			if changed != nil {
				out = append(append(out, section[copied:body]...), changed...)
				copied = end
			}
		}
		at = end
	}
	if out == nil {
		return nil, nil
	}
	return append(out, section[copied:]...), nil
}

// field looks at the field that begins at at: the class of its addresses, ""
// when it holds none, where its body begins, and where it ends, line end
// included. An end of 0 means that the header section is over.
func field(section []byte, at int) (class Class, body, end int) {
	if section[at] == '\r' || section[at] == '\n' {
		return "", 0, 0
	}
	for end = at; end < len(section); {
		eol := bytes.IndexByte(section[end:], '\n')
		if eol < 0 {
			end = len(section)
			break
		}
		end += eol + 1
		if end == len(section) || section[end] != ' ' && section[end] != '\t' {
			break
		}
	}
	colon := bytes.IndexByte(section[at:min(end, at+maxFieldName+8)], ':')
	if colon <= 0 {
		return "", 0, end
	}
	// RFC 5322 section 4.5: white space before the colon is obsolete syntax.
	name := bytes.TrimRight(section[at:at+colon], " \t")
	return addressFields[strings.ToLower(string(name))], at + colon + 1, end
}

// fieldBody returns the body of a field with its addresses changed, or nil
// when none is.
func fieldBody(ctx context.Context, body []byte, class Class, to *memo) ([]byte, error) {
	list, commas, ok := specs(body)
	if !ok {
		return nil, nil
	}
	w := fieldWriter{body: body, commas: commas}
	for _, s := range list {
		a, err := to.change(ctx, s.address, class)
		if err != nil {
			return nil, err
		}
		if a != s.address {
			w.replace(s, a)
		}
	}
	return w.end(), nil
}

// foldAt is the length of a line, with new addresses in it, from which on it
// is folded at the next comma. Lines have at most 998 octets (RFC 5322 section
// 2.1.1), and an address less than 300.
const foldAt = 600

// fieldWriter copies a body with some addresses replaced.
type fieldWriter struct {
	body   []byte
	commas []int // places behind commas, not yet passed
	out    []byte
	copied int
}

func (w *fieldWriter) replace(s spec, a mail.Address) {
	w.copyTo(s.start)
	w.out = append(w.out, a.String()...)
	w.copied = s.end
}

// copyTo copies the body up to to, and folds long lines at commas.
func (w *fieldWriter) copyTo(to int) {
	for len(w.commas) > 0 && w.commas[0] <= to {
		comma := w.commas[0]
		w.commas = w.commas[1:]
		if comma < w.copied {
			continue
		}
		w.out = append(w.out, w.body[w.copied:comma]...)
		w.copied = comma
		if len(w.out)-1-bytes.LastIndexByte(w.out, '\n') > foldAt && w.goesOn(comma) {
			w.out = append(w.out, "\r\n "...)
		}
	}
	w.out = append(w.out, w.body[w.copied:to]...)
	w.copied = to
}

// goesOn reports whether a line has more than white space behind a place.
func (w *fieldWriter) goesOn(at int) bool {
	rest := bytes.TrimLeft(w.body[at:], " \t")
	return len(rest) > 0 && rest[0] != '\r' && rest[0] != '\n'
}

// end returns the whole body, or nil when nothing was replaced.
func (w *fieldWriter) end() []byte {
	if w.copied == 0 {
		return nil
	}
	w.copyTo(len(w.body))
	return w.out
}

// memo remembers what addresses become: those of a header repeat.
type memo struct {
	to    change
	known map[memoKey]mail.Address
}

type memoKey struct {
	address mail.Address
	class   Class
}

func newMemo(to change) *memo { return &memo{to, make(map[memoKey]mail.Address)} }

func (m *memo) change(ctx context.Context, a mail.Address, class Class) (mail.Address, error) {
	key := memoKey{a, class}
	if to, ok := m.known[key]; ok {
		return to, nil
	}
	to, err := m.to(ctx, a, class)
	if err == nil {
		m.known[key] = to
	}
	return to, err
}
