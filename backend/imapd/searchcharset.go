package imapd

import (
	"strings"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
)

// searchCharsets are named to a client that asks for another. More are
// understood, under more names.
const searchCharsets = "US-ASCII UTF-8 ISO-8859-1 ISO-8859-2 ISO-8859-5 ISO-8859-7 ISO-8859-15 WINDOWS-1250 WINDOWS-1251 " +
	"WINDOWS-1252 KOI8-R KOI8-U ISO-2022-JP SHIFT_JIS EUC-JP GB18030 GBK BIG5 EUC-KR"

// charset turns the strings of a search program into UTF-8. The zero value
// takes them as they are: in US-ASCII, which is the default, several programs
// send UTF-8.
type charset struct {
	encoding encoding.Encoding
	// refused says that the charset is not known. The command is read to its
	// end all the same, so that it is answered with NO, and not with BAD.
	refused bool
	given   bool
}

// charset reads the name of a charset.
func (p *searchParser) charset() error {
	name, err := p.astring()
	if err != nil {
		return err
	}
	p.args.charset = charsetNamed(name)
	p.args.charset.given = true
	return nil
}

func charsetNamed(name string) charset {
	if isUTF8(name) && name != "" {
		return charset{}
	}
	e, err := htmlindex.Get(name)
	if err != nil || e == encoding.Replacement || strings.HasPrefix(strings.ToLower(name), "utf-16") || strings.HasPrefix(strings.ToLower(name), "x-user") {
		return charset{refused: true}
	}
	return charset{encoding: e}
}

func (c charset) isUTF8() bool { return c.encoding == nil && !c.refused }

// decode returns text in UTF-8.
func (c charset) decode(text string) (string, error) {
	if c.encoding == nil {
		return text, nil
	}
	out, err := c.encoding.NewDecoder().String(text)
	if err != nil {
		return "", syntax("text is not in the charset")
	}
	return out, nil
}

// err is the answer to an unknown charset (RFC 9051 section 6.4.4).
func (c charset) err() error {
	if c.refused {
		return refuse("BADCHARSET ("+searchCharsets+")", "Charset is not supported")
	}
	return nil
}
