package imapd

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore"
)

const (
	maxKeywords      = 64 // in one command
	maxKeywordOctets = 128
)

// systemFlags is the wire form of the system flags, in the order of their bits.
var systemFlags = [...]struct {
	bit  mailstore.Flags
	wire string
}{
	{mailstore.FlagSeen, `\Seen`},
	{mailstore.FlagAnswered, `\Answered`},
	{mailstore.FlagFlagged, `\Flagged`},
	{mailstore.FlagDeleted, `\Deleted`},
	{mailstore.FlagDraft, `\Draft`},
}

const allSystemFlags = `\Answered \Flagged \Deleted \Seen \Draft`

const allFlags = mailstore.FlagSeen | mailstore.FlagAnswered | mailstore.FlagFlagged | mailstore.FlagDeleted | mailstore.FlagDraft

// flagText holds, for every set of system flags, its wire form.
var flagText = func() (t [1 << len(systemFlags)]string) {
	for set := range t {
		var names []string
		for _, f := range systemFlags {
			if mailstore.Flags(set)&f.bit != 0 {
				names = append(names, f.wire)
			}
		}
		t[set] = strings.Join(names, " ")
	}
	return t
}()

// flags appends a message's flags in parentheses.
func (w *writer) flags(m *mailstore.Message) {
	w.grow()
	w.buf = append(w.buf, '(')
	text := flagText[int(m.Flags)%len(flagText)]
	w.buf = append(w.buf, text...)
	for i, k := range m.Keywords {
		if i > 0 || text != "" {
			w.buf = append(w.buf, ' ')
		}
		w.buf = append(w.buf, k...)
	}
	w.buf = append(w.buf, ')')
}

// flagSet is what a command says about flags.
type flagSet struct {
	system   mailstore.Flags
	keywords []string
}

// flagList reads flags in parentheses.
func (p *parser) flagList() (flagSet, error) {
	var set flagSet
	err := p.list(func() error { return p.flag(&set) })
	return set, err
}

// storeFlags reads flags as STORE may have them, without parentheses too.
func (p *parser) storeFlags() (flagSet, error) {
	if p.peek() == '(' {
		return p.flagList()
	}
	var set flagSet
	for {
		if err := p.flag(&set); err != nil {
			return set, err
		}
		if !p.take(' ') || p.i == len(p.b) {
			return set, nil
		}
	}
}

func (p *parser) flag(set *flagSet) error {
	if p.take('\\') {
		name, err := p.atom()
		if err != nil {
			return syntax("expected a flag")
		}
		return set.addSystem(name)
	}
	name, err := p.atom()
	if err != nil {
		return syntax("expected a flag")
	}
	return set.addKeyword(name)
}

func (set *flagSet) addSystem(name string) error {
	for _, f := range systemFlags {
		if strings.EqualFold(f.wire[1:], name) {
			set.system |= f.bit
			return nil
		}
	}
	if strings.EqualFold(name, "Recent") { // the client cannot alter it; asking is harmless
		return nil
	}
	return syntax("unknown system flag")
}

func (set *flagSet) addKeyword(name string) error {
	if len(name) > maxKeywordOctets {
		return refuse("LIMIT", "Keyword is too long")
	}
	if set.hasKeyword(name) {
		return nil
	}
	if len(set.keywords) >= maxKeywords {
		return refuse("LIMIT", "Too many keywords")
	}
	set.keywords = append(set.keywords, name)
	return nil
}

func (set *flagSet) hasKeyword(name string) bool { return hasKeyword(set.keywords, name) }

// hasKeyword compares without regard to letter case (RFC 9051 section 2.3.2).
func hasKeyword(keywords []string, name string) bool {
	return slices.ContainsFunc(keywords, func(k string) bool { return strings.EqualFold(k, name) })
}

// applied returns what op with set makes of a message's flags.
func (set flagSet) applied(op mailstore.FlagsOp, m *mailstore.Message) (mailstore.Flags, []string) {
	switch op {
	case mailstore.FlagsAdd:
		keywords := slices.Clone(m.Keywords)
		for _, k := range set.keywords {
			if !hasKeyword(keywords, k) {
				keywords = append(keywords, k)
			}
		}
		return m.Flags | set.system, keywords
	case mailstore.FlagsRemove:
		keywords := slices.DeleteFunc(slices.Clone(m.Keywords), set.hasKeyword)
		return m.Flags &^ set.system, keywords
	default:
		return set.system, set.keywords
	}
}

// sameFlags reports whether m has exactly these flags.
func sameFlags(m *mailstore.Message, system mailstore.Flags, keywords []string) bool {
	if m.Flags != system || len(m.Keywords) != len(keywords) {
		return false
	}
	for _, k := range keywords {
		if !hasKeyword(m.Keywords, k) {
			return false
		}
	}
	return true
}
