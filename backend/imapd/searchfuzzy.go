package imapd

import (
	"strings"
	"unicode"

	"github.com/postern-mail/postern/backend/mailstore/text"
)

// needle is text that is looked for: exactly, as SEARCH wants it, or loosely.
type needle = text.Needle

func exactly(s string) needle { return text.Exactly(s) }

func loose(s string) needle { return text.Loosely(s) }

// fuzzyKey is FUZZY (RFC 6203). What a message must have to be found loosely:
// every word of the text, each anywhere in the field, the body or the message
// that the key names, in any order and whatever its letter case and accents.
// Other keys mean the same with and without it.
func (p *searchParser) fuzzyKey() (k searchKey, err error) {
	if p.depth++; p.depth > maxSearchDepth {
		return k, syntax("search is nested too deeply")
	}
	before := p.fuzzy
	defer func() { p.fuzzy = before; p.depth-- }()
	if err = p.sp(); err != nil {
		return k, err
	}
	p.fuzzy, p.args.loose = true, true
	return p.key()
}

// relevancy writes the scores of n messages (RFC 6203 section 4). A message is
// found only when all words are in it, so that one is as good as another.
func (w *writer) relevancy(n int) {
	w.str(" RELEVANCY (")
	for i := range n {
		if i > 0 {
			w.char(' ')
		}
		w.str("100")
	}
	w.char(')')
}

// checkRelevancy refuses scores where nothing is searched for loosely.
func (a *searchArgs) checkRelevancy(wanted bool) error {
	if wanted && !a.loose {
		return syntax("RELEVANCY needs FUZZY")
	}
	return nil
}

// loosely makes a key of each word of text.
func (p *searchParser) loosely(k searchKey, text string) (searchKey, error) {
	words := strings.FieldsFunc(text, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.IsMark(r)
	})
	if len(words) < 2 {
		if len(words) == 1 {
			text = words[0]
		}
		k.text = loose(text)
		return k, nil
	}
	if p.keys += len(words); p.keys > maxSearchKeys {
		return k, syntax("too many search keys")
	}
	all := searchKey{op: searchAnd, cost: k.cost}
	for _, word := range words {
		k.text = loose(word)
		all.kids = append(all.kids, k)
	}
	return all, nil
}
