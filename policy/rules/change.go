package rules

import (
	"mime"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// edits are the changes of the message that the rules ask for. Places are those
// of the fields as they are: what is taken away or replaced goes from the bottom
// to the top, what is added comes last.
func (q *question) edits() []mail.Edit {
	if q.tx.Message == nil {
		return nil
	}
	edits := q.fieldEdits(q.tx.Message.Fields())
	for i := len(q.headers) - 1; i >= 0; i-- {
		edits = append(edits, mail.Edit{PrependHeader: string(q.headers[i])})
	}
	if q.banner != "" {
		if body := withBanner(q.tx.Message, q.banner); body != nil {
			edits = append(edits, mail.Edit{Body: body})
		}
	}
	return edits
}

func (q *question) fieldEdits(fields []mail.Field) []mail.Edit {
	var edits []mail.Edit
	subject := -1
	for at := len(fields) - 1; at >= q.tx.Message.Ours(); at-- {
		switch f := fields[at]; {
		case q.stripped(f):
			edits = append(edits, mail.Edit{Change: &mail.ChangeField{At: at}})
		case f.Is("Subject"):
			if changed := q.tagged(f); changed != f {
				edits = append(edits, mail.Edit{Change: &mail.ChangeField{At: at, Field: changed}})
			}
			subject = at
		}
	}
	if tagged := q.tagged("Subject:"); subject < 0 && tagged != "Subject:" {
		edits = append(edits, mail.Edit{Insert: &mail.InsertField{At: len(fields), Field: tagged}})
	}
	return edits
}

func (q *question) stripped(f mail.Field) bool {
	for _, name := range q.strip {
		if f.Is(name) {
			return true
		}
	}
	return false
}

var words mime.WordDecoder

// tagged returns a Subject with the tags before its text, but for those that
// stand there, behind "Re:" and the like too.
func (q *question) tagged(f mail.Field) mail.Field {
	text, err := words.DecodeHeader(f.Unfolded())
	if err != nil { // of a charset that is not known: the ASCII in it may be the tag
		text = f.Unfolded()
	}
	var missing []string
	for _, tag := range q.tags {
		if !strings.Contains(text, tag) {
			missing = append(missing, mime.QEncoding.Encode("utf-8", tag))
		}
	}
	if len(missing) == 0 {
		return f
	}
	return mail.Field(strings.TrimRight(f.Name()+": "+strings.Join(missing, " ")+" "+strings.TrimLeft(f.Value(), " \t"), " "))
}
