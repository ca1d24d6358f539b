package mime

import (
	"bytes"
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Parameter is one of a field's, such as boundary of a Content-Type. Name is as it
// was written, Value without quotes. Others are what programs may take for the
// value that keep less to the grammar.
type Parameter struct {
	Name, Value string
	Others      []string
	// Doubtful tells that blanks, comments or quotes stand where none belong.
	Doubtful bool
}

// maxParameters bounds the parameters of a field that count.
const maxParameters = 200

// Parameters returns the parameters of a field, those that are given twice twice;
// not whole where there are more than anybody has a use for.
func Parameters(field []byte) (all []Parameter, whole bool) {
	_, value, _ := bytes.Cut(field, []byte(":"))
	s := scanner{text: value}
	s.parameter()
	for !s.ended() {
		if len(all) >= maxParameters {
			return all, false
		}
		from := s.at
		s.odd = false
		tokens := s.tokens(len(value))
		at := slices.IndexFunc(tokens, func(t token) bool { return t.is("=") })
		if at < 1 {
			continue
		}
		p := Parameter{Name: tokens[at-1].text}
		if values := tokens[at+1:]; len(values) > 0 {
			p.Value = values[0].text
			p.Doubtful = s.odd || len(values) > 1 && values[0].form == quoted || slices.ContainsFunc(values[1:], func(t token) bool { return t.spaced })
			if len(values) > 1 {
				var joined strings.Builder
				for _, t := range values {
					joined.WriteString(t.text)
				}
				p.Others = append(p.Others, joined.String())
				if values[0].form != quoted { // blanks and specials without quotes, as some programs write names
					p.Value, p.Others[0] = p.Others[0], p.Value
				}
			}
		}
		if s.odd {
			_, raw, _ := bytes.Cut(value[from:], []byte("="))
			raw, _, _ = bytes.Cut(raw, []byte(";"))
			p.Others = append(p.Others, strings.Trim(strings.NewReplacer("\r", "", "\n", "").Replace(string(raw)), " \t\""))
		}
		if p.Value != "" || p.Others != nil {
			all = append(all, p)
		}
	}
	return all, true
}

// boundaries returns what a Content-Type field says that the parts are divided by,
// in one piece or in several (RFC 2231); sure only where all programs agree.
func boundaries(field []byte) (all []string, sure bool) {
	type piece struct {
		number int
		text   string
	}
	var pieces []piece
	parameters, sure := Parameters(field)
	for _, p := range parameters {
		base, rest, starred := strings.Cut(strings.ToLower(p.Name), "*")
		if base != "boundary" {
			continue
		}
		sure = sure && !p.Doubtful
		if !starred {
			all = append(all, p.Value)
			continue
		}
		digits, extended := strings.CutSuffix(rest, "*")
		number, err := strconv.Atoi(cmp.Or(digits, "0"))
		sure = sure && err == nil
		text := p.Value
		if extended || rest == "" {
			if parts := strings.SplitN(text, "'", 3); len(parts) == 3 && number == 0 {
				text = parts[2]
			}
			if plain, err := url.PathUnescape(text); err == nil {
				text = plain
			} else {
				sure = false
			}
		}
		pieces = append(pieces, piece{number, text})
	}
	slices.SortStableFunc(pieces, func(a, b piece) int { return cmp.Compare(a.number, b.number) })
	var b strings.Builder
	for i, p := range pieces {
		sure = sure && p.number == i
		b.WriteString(p.text)
	}
	if len(pieces) > 0 {
		all = append(all, b.String())
	}
	return all, sure
}
