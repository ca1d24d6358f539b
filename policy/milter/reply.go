package milter

import (
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// answer is what a filter decided at one step.
type answer struct {
	reply   byte // one of the reply constants that end a step
	verdict mail.Verdict
}

// place is where in the dialogue a reply stands, as far as that changes which
// ones there are.
type place uint8

const (
	beforeMail place = iota
	inMessage
	inBody // of a filter that may skip
)

// decide makes of a reply what it means. Edits and progress are none of its
// business.
func decide(reply byte, data []byte, at place) (answer, error) {
	a := answer{reply: reply}
	switch reply {
	case replyContinue, replyAccept:
	case replySkip:
		if at != inBody {
			return a, protocolError("the filter skips what cannot be skipped")
		}
	case replyReject:
		a.verdict = mail.Verdict{Action: mail.Reject, Reason: status.FilterRejected}
	case replyTempFail:
		a.verdict = mail.Verdict{Action: mail.Reject, Reason: status.FilterDeferred}
	case replyShutdown, replyConnFail:
		a.verdict = mail.Verdict{Action: mail.Reject, Reason: status.FilterShutdown}
	case replyDiscard:
		if at == beforeMail {
			return a, protocolError("discard, and no message to discard yet")
		}
		a.verdict = mail.Verdict{Action: mail.Discard, Detail: "discarded by the filter"}
	case replyCode:
		r, err := parseReply(string(data))
		if err != nil {
			return a, err
		}
		a.verdict = mail.Verdict{Action: mail.Reject, Reason: status.FilterRejected, Reply: &r}
		if r.Transient() {
			a.verdict.Reason = status.FilterDeferred
		}
	default:
		return a, protocolError("reply %q out of place", string(reply))
	}
	return a, nil
}

// Bounds of a reply's text; lines are as many as libmilter lets a filter send.
const (
	maxReplyLines  = 32
	maxReplyOctets = 510
)

// parseReply reads the reply that a filter gives the client: "550 5.7.1 Text",
// in several lines as they stand on the wire.
func parseReply(s string) (status.Reply, error) {
	var r status.Reply
	s, _, _ = strings.Cut(s, "\x00")
	lines := strings.Split(strings.TrimRight(strings.ReplaceAll(s, "\r\n", "\n"), "\n"), "\n")
	if len(lines) > maxReplyLines {
		return r, protocolError("a reply of %d lines", len(lines))
	}
	for i, line := range lines {
		if len(line) < 3 || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
			return r, protocolError("reply %.80q", line)
		}
		code, err := strconv.ParseUint(line[:3], 10, 16)
		if err != nil || code < 400 || code > 599 || i > 0 && int(code) != r.Code {
			return r, protocolError("reply %.80q", line)
		}
		r.Code = int(code)
		text := strings.TrimSpace(line[min(len(line), 4):])
		enhanced, rest := enhancedCode(text)
		if enhanced != [3]int{} {
			text = rest
			if i == 0 {
				r.Enhanced = enhanced
				r.Enhanced[0] = r.Code / 100
			}
		}
		if i > 0 {
			r.Text += "\n"
		}
		r.Text += printable(text)
	}
	return r, nil
}

// enhancedCode cuts the code off a text that begins with one.
func enhancedCode(text string) (code [3]int, rest string) {
	first, rest, _ := strings.Cut(text, " ")
	parts := strings.Split(first, ".")
	if len(parts) != 3 || parts[0] != "4" && parts[0] != "5" {
		return code, text
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil || n > 999 || len(part) > 3 {
			return [3]int{}, text
		}
		code[i] = int(n)
	}
	return code, strings.TrimSpace(rest)
}

// printable is a text of one line as it may go to a client: without control
// characters, and with the doubled percent signs undone that libmilter asks for.
func printable(text string) string {
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, strings.ReplaceAll(text, "%%", "%"))
	return strings.ToValidUTF8(text[:min(len(text), maxReplyOctets)], "?")
}
