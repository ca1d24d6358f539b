package audit

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/mail"
)

// appendEvent appends e without its opening brace, as json.Marshal would write
// it. Every message is several events, so it is not left to reflection; the
// tests hold the two together, field by field.
func appendEvent(buf []byte, e *mail.Event) ([]byte, error) {
	at, err := e.Time.MarshalJSON() // refuses years that RFC 3339 cannot tell
	if err != nil {
		return buf, err
	}
	o := object{append(append(buf, `"time":`...), at...)}
	o.buf = appendString(append(o.buf, `,"event":`...), string(e.Kind))
	o.text(`,"result":`, e.Result)
	o.text(`,"reason":`, e.Reason)
	o.text(`,"service":`, e.Service)
	o.text(`,"session":`, string(e.Session))
	o.text(`,"queue":`, string(e.Queue))
	o.text(`,"delivery":`, e.Delivery)
	o.remote(e.Remote)
	o.text(`,"login":`, e.Login)
	o.text(`,"mechanism":`, e.Mechanism)
	o.text(`,"verifier":`, e.Verifier)
	o.addresses(e.From, e.To)
	o.text(`,"mailbox":`, e.Mailbox)
	o.text(`,"owner":`, e.Owner)
	o.text(`,"uids":`, e.UIDs)
	o.text(`,"stage":`, e.Stage)
	o.text(`,"phase":`, e.Phase)
	o.text(`,"reply":`, e.Reply)
	o.text(`,"peer":`, e.Peer)
	o.number(`,"octets":`, e.Octets)
	o.text(`,"message_id":`, e.MessageID)
	o.text(`,"tls":`, e.TLS)
	o.text(`,"client":`, e.Client)
	o.text(`,"helo":`, e.Helo)
	o.text(`,"protocol":`, e.Protocol)
	o.text(`,"command":`, e.Command)
	o.text(`,"commands":`, e.Commands)
	o.number(`,"count":`, e.Count)
	o.text(`,"destination":`, e.Destination)
	o.text(`,"detail":`, e.Detail)
	o.number(`,"duration_ns":`, int64(e.Duration/time.Nanosecond))
	o.steps(e.Steps)
	return append(o.buf, '}'), nil
}

// object is a JSON object being written. Its methods leave out zero values.
type object struct{ buf []byte }

func (o *object) text(key, value string) {
	if value != "" {
		o.buf = appendString(append(o.buf, key...), value)
	}
}

func (o *object) number(key string, value int64) {
	if value != 0 {
		o.buf = strconv.AppendInt(append(o.buf, key...), value, 10)
	}
}

func (o *object) steps(steps []mail.PolicyStep) {
	for i := range steps {
		s, opening := &steps[i], `,{"list":`
		if i == 0 {
			opening = `,"steps":[{"list":`
		}
		o.buf = appendString(append(o.buf, opening...), s.List)
		o.buf = appendString(append(o.buf, `,"stage":`...), s.Stage)
		o.text(`,"rcpt":`, s.Recipient)
		o.text(`,"input":`, s.Input)
		o.buf = appendString(append(o.buf, `,"verdict":`...), s.Verdict)
		o.text(`,"detail":`, s.Detail)
		o.buf = strconv.AppendInt(append(o.buf, `,"cost_ns":`...), int64(s.Cost/time.Nanosecond), 10)
		o.buf = append(o.buf, '}')
	}
	if len(steps) > 0 {
		o.buf = append(o.buf, ']')
	}
}

func (o *object) remote(value netip.AddrPort) {
	if value == (netip.AddrPort{}) {
		return
	}
	if zone := value.Addr().Zone(); zone != "" { // a name of the system's
		o.text(`,"remote":`, value.String())
		return
	}
	o.buf = append(value.AppendTo(append(o.buf, `,"remote":"`...)), '"')
}

func (o *object) addresses(from *mail.Address, to []mail.Address) {
	if from != nil {
		o.buf = appendString(append(o.buf, `,"from":`...), from.String())
	}
	for i := range to {
		key := `,`
		if i == 0 {
			key = `,"to":[`
		}
		o.buf = appendString(append(o.buf, key...), to[i].String())
	}
	if len(to) > 0 {
		o.buf = append(o.buf, ']')
	}
}

// appendString appends s in quotes, escaped where it has to be.
func appendString(buf []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			escaped, err := json.Marshal(s)
			if err != nil {
				escaped = []byte(`""`) // strings have no such error
			}
			return append(buf, escaped...)
		}
	}
	buf = append(buf, '"')
	buf = append(buf, s...)
	return append(buf, '"')
}
