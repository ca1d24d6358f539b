package smtp

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// maxReplyLine is the longest reply line without its line end (RFC 5321 section
// 4.5.3.1.5).
const maxReplyLine = 510

// CheckFooter returns the first name in a footer that stands for nothing, or "".
func CheckFooter(text string) (unknown string) {
	os.Expand(text, func(name string) string {
		switch name {
		case "client_address", "client_port", "localtime", "server_name":
		default:
			if unknown == "" {
				unknown = name
			}
		}
		return ""
	})
	return unknown
}

// worded returns a reply as the operator has it said.
func (s *settings) worded(r status.Reply, client *mail.Client) status.Reply {
	if r.Positive() {
		return r
	}
	if s.SoftBounce {
		r = r.Softened()
	}
	if s.RejectFooter != "" {
		r.Text = s.footed(r, client)
	}
	return r
}

// footed appends the footer to a reply's text; no line gets longer than it may.
func (s *settings) footed(r status.Reply, client *mail.Client) string {
	footer := os.Expand(s.RejectFooter, func(name string) string {
		switch name {
		case "client_address":
			return client.Remote.Addr().Unmap().String()
		case "client_port":
			return strconv.Itoa(int(client.Remote.Port()))
		case "localtime":
			return time.Now().Format("Jan _2 15:04:05")
		case "server_name":
			return s.Hostname
		}
		return ""
	})
	text := r.Text + "\n" + footer
	if sameLine, ok := strings.CutPrefix(footer, `\c`); ok {
		text = r.Text + sameLine
	}
	lines := strings.Split(text, "\n")
	room := maxReplyLine - len("999 ") - len(r.EnhancedString()) - 1
	for i, line := range lines {
		if len(line) > room {
			lines[i] = strings.ToValidUTF8(line[:room], "")
		}
	}
	return strings.Join(lines, "\n")
}
