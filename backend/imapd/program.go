package imapd

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/text"
)

// Program is a search program of an operator: that of SEARCH (RFC 9051 section
// 6.4.4) with the keys of all extensions, and what plainWords adds. It is used
// by one goroutine.
type Program struct {
	key   searchKey
	now   time.Time
	plain plainWords
}

// maxProgramOctets bounds a program, as the length of a command bounds those of
// clients.
const maxProgramOctets = 1 << 20

// ParseProgram reads a program, each word of which is a key, a value, or a
// program in itself. Ages count from now. Without words there is no program:
// ALL is one.
func ParseProgram(words []string, now time.Time) (*Program, error) {
	joined, err := joinProgram(words)
	if err != nil {
		return nil, err
	}
	if joined == "" || len(joined) > maxProgramOctets {
		return nil, errors.New("say which messages: a search program such as mailbox Trash savedbefore 30days; ALL is all of them")
	}
	p := &Program{now: now, plain: plainWords{now: now}}
	args := searchArgs{uid: true}
	sp := &searchParser{parser: &parser{b: []byte(joined)}, args: &args, plain: &p.plain}
	err = sp.program()
	if err == nil {
		err = sp.end()
	}
	var wrong *syntaxError
	if errors.As(err, &wrong) {
		return nil, errors.New("search program: " + wrong.what + sp.place())
	}
	p.key = args.key
	return p, err
}

// place tells where the parser is.
func (p *searchParser) place() string {
	rest := string(p.b[min(p.i, len(p.b)):])
	if rest = strings.TrimSpace(rest); rest == "" {
		return ", at its end"
	}
	if len(rest) > 40 {
		rest = strings.ToValidUTF8(rest[:40], "") + "..."
	}
	return ", before " + rest
}

// Mailboxes are the names that the program gives without wildcards.
func (p *Program) Mailboxes() []string { return p.plain.names }

// MayMatch is false when the program matches nothing in that mailbox.
func (p *Program) MayMatch(mailbox mailstore.MailboxInfo) bool {
	return p.key.judgeMailbox(&mailbox) != matchesNot
}

// isMailbox decides a key that is about the mailbox alone.
func (k *searchKey) isMailbox(m *mailstore.MailboxInfo) bool {
	if k.word == "" {
		return k.id == m.GUID
	}
	return pattern(k.word).match(m.Name)
}

// judgeMailbox decides a key as far as the mailbox tells.
func (k *searchKey) judgeMailbox(m *mailstore.MailboxInfo) verdict {
	switch k.op {
	case searchMailbox:
		if k.isMailbox(m) {
			return matchesSurely
		}
		return matchesNot
	case searchAnd, searchOr:
		decisive, otherwise := matchesNot, matchesSurely
		if k.op == searchOr {
			decisive, otherwise = otherwise, decisive
		}
		for i := range k.kids {
			switch k.kids[i].judgeMailbox(m) {
			case decisive:
				return decisive
			case perhaps:
				otherwise = perhaps
			}
		}
		return otherwise
	case searchNot:
		switch k.kids[0].judgeMailbox(m) {
		case matchesNot:
			return matchesSurely
		case matchesSurely:
			return matchesNot
		}
	}
	return perhaps
}

// Searches runs Programs, which share the processors that are free. It is safe
// for concurrent use.
type Searches struct {
	free    scanners
	options text.Options
}

// NewSearches returns one for the mailboxes of a store.
func NewSearches(store *mailstore.Store) *Searches {
	return &Searches{free: newScanners(), options: store.TextOptions()}
}

// Search returns the messages of a view of a mailbox that match, in ascending
// order of UIDs. The caller holds the mailbox. It ends soon after ctx does.
func (x *Searches) Search(ctx context.Context, p *Program, mailbox *mailstore.Mailbox, view mailstore.View) ([]*mailstore.Message, error) {
	g := &ground{mailbox: mailbox, told: view, now: view}
	p.key.prepare(g, p.now)
	found, err := searchFor(ctx, (*operatorSearch)(x), g, &p.key, reach{})
	if err != nil {
		return nil, err
	}
	messages := make([]*mailstore.Message, 0, len(found))
	for _, i := range found {
		messages = append(messages, view.At(i))
	}
	return slices.Clip(messages), nil
}

// operatorSearch is a search without a session.
type operatorSearch Searches

func (x *operatorSearch) goOn(ctx context.Context) error   { return ctx.Err() }
func (x *operatorSearch) helpOn(ctx context.Context) error { return ctx.Err() }
func (x *operatorSearch) processors() scanners             { return x.free }
func (x *operatorSearch) textOptions() text.Options        { return x.options }

// NameFits reports whether a mailbox's name fits a pattern of LIST.
func NameFits(patternText, name string) bool { return newPattern("", patternText).match(name) }

// EmailID, ThreadID and MailboxID are the object identifiers that clients see
// (RFC 8474). header is the message's.
func EmailID(m *mailstore.Message) string { return string(emailPrefix) + m.EmailID.String() }

// ThreadID is the identifier of a message's thread; see EmailID.
func ThreadID(m *mailstore.Message, header []byte) string {
	return string(threadPrefix) + threadID(m, header).String()
}

// MailboxID is the identifier of a mailbox; see EmailID.
func MailboxID(id mailstore.GUID) string { return string(mailboxPrefix) + id.String() }
