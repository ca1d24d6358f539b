package signing

import (
	"bytes"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// Own signs what the server writes itself: reports, notices.
type Own struct {
	Ring    *Ring
	Signer  *dkim.Signer
	Metrics *Metrics
}

// Sign returns a message, with CRLF line ends, with signatures on top of it. A
// message that has no key comes back as it is; so does one that cannot be
// signed, with the error: to send it unsigned is better than not to.
func (o *Own) Sign(message []byte) ([]byte, error) {
	fields, body := Split(message)
	a, err := authorOf(fields)
	if err != nil {
		o.Metrics.signed("no_author")
		return message, err
	}
	keys := o.Ring.For(a.domain, time.Now())
	if len(keys) == 0 {
		o.Metrics.signed("no_key")
		return message, nil
	}
	made, err := o.Signer.Sign(fields, bytes.NewReader(body), "", keys...)
	if err != nil {
		o.Metrics.signed("error")
		return message, err
	}
	var b bytes.Buffer
	for _, f := range made {
		b.WriteString(string(f) + "\r\n")
	}
	b.Write(message)
	o.Metrics.signed("signed")
	return b.Bytes(), nil
}

// Split cuts a whole message with CRLF line ends into its fields and its body,
// which is part of the message's memory.
func Split(message []byte) (fields []mail.Field, body []byte) {
	for len(message) > 0 {
		line, rest, _ := bytes.Cut(message, []byte("\r\n"))
		message = rest
		switch {
		case len(line) == 0:
			return fields, rest
		case (line[0] == ' ' || line[0] == '\t') && len(fields) > 0:
			fields[len(fields)-1] += mail.Field("\r\n" + string(line))
		default:
			fields = append(fields, mail.Field(line))
		}
	}
	return fields, nil
}
