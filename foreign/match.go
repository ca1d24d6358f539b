package foreign

import (
	"crypto/sha256"
	"encoding/binary"
	"net/mail"
	"strings"
	"time"

	"github.com/postern-mail/postern/foreign/imap"
)

// fingerprint stands for a message's content as far as servers tell it
// without sending it: Message-ID, or where there is none the fields that tell
// messages apart, size and INTERNALDATE.
type fingerprint [12]byte

// face is what two messages are matched by when they first meet.
type face struct {
	uid          uint32
	id           string
	exact, loose fingerprint // loose leaves out INTERNALDATE and holds all fields
	flags        []string
}

func faceOf(m imap.Message) face {
	return face{uid: m.UID, id: m.ID, exact: printOf(m), loose: looseOf(m), flags: without(m.Flags, pendingKeyword)}
}

func printOf(m imap.Message) fingerprint {
	id := field(m.Header, "Message-ID")
	if id == "" {
		id = "no id " + fields(m.Header)
	}
	when := m.Date
	if t, err := time.Parse("_2-Jan-2006 15:04:05 -0700", strings.TrimSpace(m.Date)); err == nil {
		when = t.UTC().Format(time.RFC3339)
	}
	return sum(id, when, m.Size)
}

func looseOf(m imap.Message) fingerprint { return sum(fields(m.Header), "", m.Size) }

func sum(text, when string, size int64) fingerprint {
	h := sha256.New()
	_ = binary.Write(h, binary.BigEndian, size) // a hash never fails
	h.Write([]byte(when + "\x00" + text))
	return fingerprint(h.Sum(nil))
}

// field returns a field's value without what folding adds.
func field(header, name string) string {
	m, err := mail.ReadMessage(strings.NewReader(strings.TrimRight(header, "\r\n") + "\r\n\r\n"))
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(m.Header.Get(name)), " ")
}

// fields is a header without the differences that servers make in it.
func fields(header string) string {
	m, err := mail.ReadMessage(strings.NewReader(strings.TrimRight(header, "\r\n") + "\r\n\r\n"))
	if err != nil {
		return strings.Join(strings.Fields(header), " ")
	}
	var b strings.Builder
	for _, name := range []string{"Message-ID", "Date", "From", "To", "Subject"} {
		for _, v := range m.Header[mailKey(name)] {
			b.WriteString(name + ":" + strings.Join(strings.Fields(v), " ") + "\n")
		}
	}
	return b.String()
}

func mailKey(name string) string {
	if name == "Message-ID" {
		return "Message-Id" // as net/mail writes it
	}
	return name
}

// match pairs the messages of two mailboxes that were never compared: first by
// an id both servers know, then by Message-ID, size and INTERNALDATE, then by all
// fields and size. Of several alike the first on the left is the first on the
// right, and so on: two of a kind stay two. It returns the indices of pairs and
// of what is alone on each side.
func match(left, right []face) (pairs [][2]int, alone [2][]int) {
	var taken [2][]bool
	taken[Left], taken[Right] = make([]bool, len(left)), make([]bool, len(right))
	by(left, right, &taken, &pairs, func(f face) (string, bool) { return f.id, f.id != "" })
	by(left, right, &taken, &pairs, func(f face) (fingerprint, bool) { return f.exact, true })
	by(left, right, &taken, &pairs, func(f face) (fingerprint, bool) { return f.loose, true })
	for _, s := range sides {
		for i, t := range taken[s] {
			if !t {
				alone[s] = append(alone[s], i)
			}
		}
	}
	return pairs, alone
}

func by[K comparable](left, right []face, taken *[2][]bool, pairs *[][2]int, key func(face) (K, bool)) {
	waiting := make(map[K][]int)
	for i, f := range right {
		if k, ok := key(f); ok && !taken[Right][i] {
			waiting[k] = append(waiting[k], i)
		}
	}
	for i, f := range left {
		k, ok := key(f)
		if !ok || taken[Left][i] || len(waiting[k]) == 0 {
			continue
		}
		j := waiting[k][0]
		waiting[k] = waiting[k][1:]
		taken[Left][i], taken[Right][j] = true, true
		*pairs = append(*pairs, [2]int{i, j})
	}
}
