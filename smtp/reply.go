package smtp

import (
	"strconv"
	"strings"

	"github.com/postern-mail/postern/status"
)

// appendReply appends a reply in its wire form (RFC 5321 section 4.2.1), the
// enhanced status code on every line (RFC 2034 section 4). Whatever the text
// holds, it cannot end the reply or start another one: control characters
// become spaces.
func appendReply(dst []byte, r status.Reply) []byte {
	text := r.Text
	for {
		first, rest, more := strings.Cut(text, "\n")
		dst = strconv.AppendInt(dst, int64(r.Code), 10)
		separator := byte(' ')
		if more {
			separator = '-'
		}
		dst = append(dst, separator)
		if r.Enhanced[0] != 0 {
			dst = appendEnhanced(dst, r.Enhanced)
			dst = append(dst, ' ')
		}
		dst = appendPrintable(dst, first)
		dst = append(dst, "\r\n"...)
		if !more {
			return dst
		}
		text = rest
	}
}

func appendEnhanced(dst []byte, code [3]int) []byte {
	for i, n := range code {
		if i > 0 {
			dst = append(dst, '.')
		}
		dst = strconv.AppendInt(dst, int64(n), 10)
	}
	return dst
}

func appendPrintable(dst []byte, text string) []byte {
	start := len(dst)
	dst = append(dst, text...)
	for i := start; i < len(dst); i++ {
		if dst[i] < ' ' || dst[i] == 0x7f {
			dst[i] = ' '
		}
	}
	return dst
}
