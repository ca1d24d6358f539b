package mailauth

import (
	"io"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// message is a mail.Message in memory.
type message struct {
	fields []mail.Field
	ours   int
	body   string
}

// newMessage reads a text whose lines end in LF; the first field is ours.
func newMessage(text string) *message {
	header, body, _ := strings.Cut(text, "\n\n")
	m := &message{ours: 1, body: strings.ReplaceAll(body, "\n", "\r\n")}
	m.fields = append(m.fields, "Received: from client by mx.example.com; now")
	for line := range strings.SplitSeq(header, "\n") {
		if n := len(m.fields); line != "" && (line[0] == ' ' || line[0] == '\t') {
			m.fields[n-1] += mail.Field("\r\n" + line)
		} else if line != "" {
			m.fields = append(m.fields, mail.Field(line))
		}
	}
	return m
}

func (m *message) Fields() []mail.Field { return m.fields }
func (m *message) Ours() int            { return m.ours }
func (m *message) Body() io.ReadSeeker  { return strings.NewReader(m.body) }
func (m *message) BodyOctets() int64    { return int64(len(m.body)) }

func (m *message) Apply(e mail.Edit) error {
	switch {
	case e.PrependHeader != "":
		m.fields = slices.Insert(slices.Clone(m.fields), 0, mail.Field(e.PrependHeader))
		m.ours++
	case e.Change != nil && e.Change.Field == "":
		m.fields = slices.Delete(slices.Clone(m.fields), e.Change.At, e.Change.At+1)
	default:
		return io.ErrUnexpectedEOF
	}
	return nil
}

// header returns the fields, one a line.
func (m *message) header() string {
	var b strings.Builder
	for _, f := range m.fields {
		b.WriteString(strings.ReplaceAll(string(f), "\r\n\t", " ") + "\n")
	}
	return b.String()
}
