package preview

import (
	"bytes"
	"strings"

	"golang.org/x/net/html"
)

// maxHTMLText is how much text is taken out of HTML: more than a preview has, as
// quotes and blanks are still to go.
const maxHTMLText = 2 << 10

// fromHTML returns the text of HTML, or of its beginning, in lines; with own set
// without what others wrote.
func fromHTML(text string, own bool) string {
	z := html.NewTokenizer(strings.NewReader(text))
	z.SetMaxBuf(MaxHTMLOctets)
	w := htmlText{own: own}
	for w.out.Len() < maxHTMLText {
		switch z.Next() {
		case html.ErrorToken:
			return w.out.String()
		case html.TextToken:
			if w.skipped == "" {
				w.out.Write(z.Text())
			}
		case html.StartTagToken:
			name, attributes := z.TagName()
			w.start(string(name), attributes, z)
		case html.EndTagToken:
			name, _ := z.TagName()
			w.end(string(name))
		case html.SelfClosingTagToken:
			w.space("br")
		}
	}
	return w.out.String()
}

type htmlText struct {
	out strings.Builder
	own bool
	// skipped is the element whose content is left out, depth how many of its
	// name are open.
	skipped string
	depth   int
}

func (w *htmlText) start(name string, attributes bool, z *html.Tokenizer) {
	switch {
	case w.skipped == name:
		w.depth++
		return
	case w.skipped != "":
		return
	case isHidden(name), w.own && (name == "blockquote" || attributes && isQuote(name, z)):
		w.skipped, w.depth = name, 1
	}
	w.space(name)
}

func (w *htmlText) end(name string) {
	if w.skipped == name {
		if w.depth--; w.depth == 0 {
			w.skipped = ""
		}
	}
	if w.skipped == "" {
		w.space(name)
	}
}

// space ends the line, unless the element is one within words.
func (w *htmlText) space(name string) {
	switch name {
	case "a", "abbr", "b", "big", "cite", "code", "del", "em", "font", "i", "ins", "kbd", "mark", "q", "s", "small", "span", "strike",
		"strong", "sub", "sup", "tt", "u", "var", "wbr":
	case "td", "th", "img":
		w.out.WriteByte(' ')
	default:
		w.out.WriteByte('\n')
	}
}

// isHidden reports elements whose content is no text for readers.
func isHidden(name string) bool {
	switch name {
	case "style", "script", "title", "template", "svg", "object", "select", "textarea", "noscript", "iframe":
		return true
	}
	return false
}

// isQuote reports the elements in which common programs wrap what they quote,
// or the line that introduces it.
func isQuote(name string, z *html.Tokenizer) bool {
	if name != "div" {
		return false
	}
	for {
		key, value, more := z.TagAttr()
		if string(key) == "class" || string(key) == "id" {
			for _, mark := range []string{"gmail_quote", "gmail_attr", "moz-cite-prefix", "moz-signature", "yahoo_quoted", "divRplyFwdMsg"} {
				if bytes.Contains(value, []byte(mark)) {
					return true
				}
			}
		}
		if !more {
			return false
		}
	}
}
