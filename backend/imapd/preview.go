package imapd

import (
	"context"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore"
)

// previewItem reads what follows PREVIEW (RFC 8970 section 3): modifiers in
// parentheses, of which there is LAZY. Outside of a list the parentheses may
// also be those of FETCH's own modifiers.
func (p *parser) previewItem(a *fetchArgs) error {
	item := fetchItem{kind: fetchPreview}
	if rest := strings.ToUpper(string(p.b[p.i:min(len(p.b), p.i+len(" (LAZY"))])); rest == " (LAZY" {
		p.i++
		err := p.list(func() error {
			word, err := p.word()
			if item.lazy = true; err != nil || word != "LAZY" {
				return orSyntax(err, "unknown modifier of PREVIEW")
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	a.items = append(a.items, item)
	return nil
}

// completePreviews makes the previews that messages of an earlier release lack.
// One that cannot be made now is NIL (RFC 8970 section 3.2).
func (s *session) completePreviews(ctx context.Context, list []*mailstore.Message, metas []*mailstore.Meta) {
	if err := s.box.mailbox.CompletePreviews(ctx, list, metas); err != nil {
		s.log.Warn("cannot make a preview", "sid", s.client.Session, "login", s.login(), "error", err)
	}
}

func (w *writer) preview(meta *mailstore.Meta) {
	w.str("PREVIEW ")
	if meta.NoPreview {
		w.str("NIL")
		return
	}
	w.text(string(meta.Preview))
}
