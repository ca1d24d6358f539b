package mime

import "github.com/postern-mail/postern/backend/mailstore/preview"

// excerpt finds the text that a message's preview is made of: the first part
// that is text/plain or text/html, is no attachment, and has something to read.
// The text of an enclosed message counts only where there is no other.
type excerpt struct {
	text     []byte // the preview, once there is one
	enclosed bool   // it is of an enclosed message

	from  *node // the part whose beginning is being taken; nil for none
	taken []byte
	limit int
	line  int // where the line under way begins in taken
}

// considerText begins to take a part's text, if a preview may be made of it.
func (s *Scanner) considerText(n *node) {
	e := &s.excerpt
	html := foldEqual(n.content.subtype, "html")
	if !n.content.isText() || !html && !foldEqual(n.content.subtype, "plain") || n.content.attached || n.Encoding == OtherEncoding {
		return
	}
	if e.text != nil && (!e.enclosed || n.isEnclosed()) {
		return
	}
	e.from, e.taken, e.line, e.limit = n, e.taken[:0], 0, preview.MaxPlainOctets
	if html {
		e.limit = preview.MaxHTMLOctets
	}
}

// isEnclosed reports whether the part belongs to a message in the message.
func (n *node) isEnclosed() bool {
	for n = n.parent; n != nil; n = n.parent {
		if n.Kind == Message {
			return true
		}
	}
	return false
}

// takeText takes octets of the body that is being read.
func (s *Scanner) takeText(p []byte) {
	e := &s.excerpt
	if e.from == nil || s.inHeader {
		return
	}
	e.taken = append(e.taken, p[:min(len(p), e.limit-len(e.taken))]...)
	if len(e.taken) == e.limit && len(s.open) == 0 { // else a delimiter may have to be dropped yet
		s.endText()
	}
}

// dropLine forgets the line under way, which is a delimiter.
func (e *excerpt) dropLine() { e.taken = e.taken[:min(e.line, len(e.taken))] }

// endText makes a preview of what was taken.
func (s *Scanner) endText() {
	e := &s.excerpt
	n := e.from
	e.from = nil
	text := preview.Of(preview.Part{
		Raw: e.taken, Encoding: n.Encoding, Charset: n.content.charset, HTML: foldEqual(n.content.subtype, "html"),
	})
	e.taken = e.taken[:0]
	if text != "" {
		e.text, e.enclosed = []byte(text), n.isEnclosed()
	}
}

// HasPreview reports whether the preview is found, so that the rest of the
// message need not be read for it.
func (s *Scanner) HasPreview() bool { return s.excerpt.text != nil && !s.excerpt.enclosed }
