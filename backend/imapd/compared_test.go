package imapd

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// odd is a message of the corpus on which both servers are compared, and where
// they differ.
type odd struct {
	name, text string
	// differs names the items that Dovecot answers otherwise, each with the row
	// of docs/imap-compared.md that says why: "BODYSTRUCTURE:md5".
	differs string
}

func multipart(boundary, parts string) string {
	return "Subject: m\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=" + boundary + "\r\n\r\n" + parts
}

func withType(header string) string { return "Subject: t\r\n" + header + "\r\n\r\nbody\r\n" }

func withField(field string) string { return field + "\r\n\r\nbody\r\n" }

// oddMessages are messages as nobody should write them, and as they come.
var oddMessages = []odd{
	// Content fields.
	{"all fields", withType("Content-Type: text/plain; charset=utf-8; format=flowed\r\nContent-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==\r\nContent-ID: <a@b>\r\nContent-Description: =?utf-8?q?x?=\r\nContent-Disposition: inline; filename=\"a b\"; size=4\r\nContent-Language: en\r\nContent-Location: http://example.org/\r\n x"), ""},
	{"languages", withType("Content-Language: en, de-CH (comment), fr"), "BODYSTRUCTURE:language"},
	{"RFC 2231", withType("Content-Type: text/plain; name*0*=us-ascii'en'This%20is; name*1=\" it\"; charset*=utf-8''x\r\nContent-Disposition: attachment; filename*=UTF-8''%e2%82%ac"), "*:parameters"},
	{"disposition alone", withType("Content-Disposition: attachment"), "BODYSTRUCTURE:disposition"},
	{"disposition is empty", withType("Content-Disposition:"), ""},
	{"disposition is junk", withType("Content-Disposition: ; filename=x"), ""},
	{"no subtype", withType("Content-Type: text"), "*:type"},
	{"empty subtype", withType("Content-Type: text/"), "*:type"},
	{"no type", withType("Content-Type: /plain"), "*:type"},
	{"empty type", withType("Content-Type:"), "*:type"},
	{"junk type", withType("Content-Type: ??? ; x=y"), "*:type"},
	{"capitals", withType("CONTENT-TYPE: TEXT/HTML; CHARSET=UTF-8\r\nContent-Transfer-Encoding: BASE64"), ""},
	{"parameter without value", withType("Content-Type: text/plain; charset"), "*:charset"},
	{"parameter with empty value", withType("Content-Type: text/plain; charset="), ""},
	{"parameter without semicolon", withType("Content-Type: text/plain charset=x"), "*:type"},
	{"parameter with open quote", withType("Content-Type: text/plain; charset=\"utf-8"), "*:parameters"},
	{"parameter with spaces", withType("Content-Type: text/plain ; charset = \"utf-8\" ; name = a b"), ""},
	{"parameter with escapes", withType("Content-Type: text/plain; name=\"a\\\"b\\\\c\""), "*:charset"},
	{"parameter of 8 bits", withType("Content-Type: text/plain; name=\"gr\xfc\xdfe\""), "*:charset"},
	{"comments", withType("Content-Type: (a) text (b) / (c) plain (d) ; (e) charset (f) = (g) utf-8 (h)"), ""},
	{"two types", withType("Content-Type: text/plain\r\nContent-Type: text/html"), "*:charset"},
	{"encoding with comment", withType("Content-Transfer-Encoding: 8bit (x)"), "*:encoding"},
	{"encoding with junk", withType("Content-Transfer-Encoding: quoted-printable; x"), "*:encoding"},
	{"empty encoding", withType("Content-Transfer-Encoding:"), ""},
	{"unknown encoding", withType("Content-Transfer-Encoding: x-uue"), "*:encoding"},
	{"empty id", withType("Content-ID:\r\nContent-Description:"), ""},
	{"folded fields", withType("Content-Type: text/plain;\r\n charset=utf-8;\r\n\tname=\"a\r\n b\"\r\nContent-Description: a\r\n b"), ""},

	// Envelopes.
	{"addresses", withField("From: A B <a@b>, c@d (E), \"F, G\" <h@i>, <j@k>\r\nTo: \"q r\"@s, t@[127.0.0.1], <@x,@y:z@w>\r\nCc: u, v@, @w, <>, <x>"), "ENVELOPE:addresses"},
	{"groups", withField("From: x@y\r\nTo: G: a@b, c@d;, e@f\r\nCc: undisclosed-recipients:;\r\nBcc: H: i@j"), ""},
	{"empty fields", withField("From:\r\nTo: \r\nSubject:\r\nDate:\r\nMessage-ID:\r\nIn-Reply-To:"), ""},
	{"commas", withField("From: ,,a@b,,\r\nTo: ,\r\nCc: a@b c@d\r\nBcc: a@b;c@d"), "ENVELOPE:addresses"},
	{"broken addresses", withField("From: \"open <a@b>\r\nTo: a <b@c\r\nCc: a@b@c\r\nBcc: a b c"), "ENVELOPE:addresses"},
	{"sender", withField("From: a@b\r\nSender:\r\nReply-To: ,"), "ENVELOPE:addresses"},
	{"two subjects", withField("Subject: a\r\nSubject: b\r\nFrom: a@b\r\nFrom: c@d"), "ENVELOPE:repeated"},
	{"encoded words", withField("Subject: =?iso-8859-1?q?a?= =?utf-8?b?w6k=?=\r\nFrom: =?utf-8?q?=C3=A9?= <a@b>"), ""},
	{"8 bits", withField("Subject: gr\xfc\xdfe\r\nFrom: \"\xfc\" <a@b>, \xfc <c@d>"), ""},
	{"UTF-8", withField("Subject: gr\xc3\xbc\xc3\x9fe\r\nFrom: \"\xc3\xbc\" <\xc3\xbc@b>"), ""},
	{"quotes and backslashes", withField("Subject: \"a\" \\ b\r\nFrom: \"a\\\"b\" <a@b>\r\nTo: \"a\\\\b\"@c"), ""},
	{"folded subject", withField("Subject: a\r\n b\r\n\tc\r\n  d"), "ENVELOPE:blanks"},
	{"tabs", withField("Subject:\ta\tb\r\nFrom:\ta@b"), "ENVELOPE:blanks"},
	{"dates", withField("Date: Mon, 7 Feb 1994 21:52:25 -0800 (PST)"), ""},
	{"ids", withField("Message-ID: <a@b> (c)\r\nIn-Reply-To: <c@d>\r\n <e@f>"), ""},
	{"comment in address", withField("From: (x) a (y) @ (z) b (w), c@d ((n) e)"), ""},

	// Headers.
	{"no header", "\r\nbody\r\n", ""},
	{"header alone", "Subject: x\r\n", "HEADER.FIELDS:blank-line"},
	{"header without line end", "Subject: x", "HEADER.FIELDS:blank-line"},
	{"blank line alone", "\r\n", ""},
	{"one octet", "x", "HEADER.FIELDS:blank-line"},
	{"line without colon", "Subject: x\r\nnonsense\r\nFrom: a@b\r\n\r\nbody\r\n", ""},
	{"mbox line", "From a@b Mon Feb  7 21:52:25 1994\r\nSubject: x\r\n\r\nbody\r\n", ""},
	{"begins with a blank", " folded\r\nSubject: x\r\n\r\nbody\r\n", ""},
	{"space before colon", "Subject : x\r\nFrom\t: a@b\r\n\r\nbody\r\n", ""},
	{"no name", ": x\r\nSubject: y\r\n\r\nbody\r\n", ""},
	{"blank in name", "Sub ject: x\r\nFrom: a@b\r\n\r\nbody\r\n", ""},
	{"NUL in header", "Subject: a\x00b\r\nFrom: \"a\x00b\" <c@d>\r\n\r\nbody\r\n", "*:nul"},
	{"NUL in body", "Subject: a\r\n\r\na\x00b\r\n", "*:nul"},
	{"bare CR in header", "Subject: a\rb\r\nFrom: a@b\r\n\r\nbody\r\n", ""},
	{"bare CR in body", "Subject: a\r\n\r\na\rb\r\r\n", "*:line-ends"},
	{"bare LF", "Subject: a\nFrom: a@b\n\nbody\nx\n", "*:line-ends"},
	{"mixed line ends", "Subject: a\nFrom: a@b\r\n\nbody\r\nx\n", "*:line-ends"},
	{"long line", "Subject: " + strings.Repeat("x", 100_000) + "\r\nFrom: a@b\r\n\r\nbody\r\n", ""},
	{"many fields", strings.Repeat("X-Field: y\r\n", 3000) + "Subject: x\r\n\r\nbody\r\n", ""},
	{"huge header", strings.Repeat("X-Field: "+strings.Repeat("y", 60)+"\r\n", 5000) + "Subject: x\r\n\r\nbody\r\n", "ENVELOPE:huge-header"},
	{"blank continuation", "Subject: a\r\n \r\n b\r\nFrom: a@b\r\n\r\nbody\r\n", "ENVELOPE:blanks"},

	// Parts.
	{"parts", multipart("b", "pre\r\n--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b\r\nContent-Type: text/html\r\nContent-ID: <x>\r\n\r\ntwo\r\n--b--\r\npost\r\n"), "BODYSTRUCTURE:lines BODY:lines 1.1:leaf 1.1.MIME:leaf"},
	{"no parts", multipart("b", "nothing\r\n"), ""},
	{"no parts, closed", multipart("b", "--b--\r\n"), ""},
	{"no body", multipart("b", ""), ""},
	{"empty part", multipart("b", "--b\r\n--b\r\n\r\n--b--\r\n"), "2.MIME:empty-part"},
	{"part without blank line", multipart("b", "--b\r\nContent-Type: text/html\r\n--b--\r\n"), "BODYSTRUCTURE:charset BODY:charset 1.1.MIME:leaf"},
	{"part is all header", multipart("b", "--b\r\nContent-Type: text/html"), "BODYSTRUCTURE:charset BODY:charset 1.1.MIME:leaf"},
	{"not closed", multipart("b", "--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n"), "BODYSTRUCTURE:lines BODY:lines 1.1:leaf 1.1.MIME:leaf"},
	{"no boundary", "Content-Type: multipart/mixed\r\n\r\n--b\r\n\r\none\r\n--b--\r\n", "*:no-boundary"},
	{"empty boundary", "Content-Type: multipart/mixed; boundary=\"\"\r\n\r\n--\r\n\r\none\r\n----\r\n", "*:no-boundary"},
	{"boundary with blanks", "Content-Type: multipart/mixed; boundary=\"a b \"\r\n\r\n--a b\r\n\r\none\r\n--a b--  \r\n", "*:boundary"},
	{"long boundary", multipart(strings.Repeat("b", 100), "--"+strings.Repeat("b", 100)+"\r\n\r\none\r\n--"+strings.Repeat("b", 100)+"--\r\n"), "BODYSTRUCTURE:boundary BODY:boundary 1.1:leaf 1.1.MIME:leaf"},
	{"delimiter with more", multipart("b", "--b\r\n\r\none\r\n--bb\r\n\r\ntwo\r\n--b x\r\n\r\nthree\r\n--b--\r\n"), "*:delimiter"},
	{"boundary within boundary", multipart("b", "--b\r\nContent-Type: multipart/mixed; boundary=bb\r\n\r\n--bb\r\n\r\none\r\n--bb--\r\n--b\r\n\r\ntwo\r\n--b--\r\n"), "BODYSTRUCTURE:lines BODY:lines 1:last-line"},
	{"inner not closed", multipart("b", "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\n"), "*:lines"},
	{"parts after the end", multipart("b", "--b\r\n\r\none\r\n--b--\r\n--b\r\n\r\ntwo\r\n--b--\r\n"), "BODYSTRUCTURE:lines BODY:lines 1.1:leaf 1.1.MIME:leaf"},
	{"parts with bare LF", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b\n\ntwo\n--b--\n", "1.1:leaf 1.1.MIME:leaf BODYSTRUCTURE:lines BODY:lines *:line-ends"},
	{"digest", "Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nSubject: in\r\n\r\none\r\n--b\r\nContent-Type: text/plain\r\n\r\ntwo\r\n--b--\r\n", "*:lines"},
	{"enclosed", multipart("b", "--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\nFrom: a@b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\none\r\n--c\r\nContent-Type: message/rfc822\r\n\r\nSubject: deep\r\n\r\ntwo\r\n--c--\r\n--b--\r\n"), "BODYSTRUCTURE:lines BODY:lines 1:last-line 1.TEXT:last-line"},
	{"enclosed alone", "Content-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\none\r\n", ""},
	{"enclosed is empty", multipart("b", "--b\r\nContent-Type: message/rfc822\r\n\r\n--b--\r\n"), "1.MIME:empty-part"},
	{"enclosed in base64", "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\nU3ViamVjdDogeA0KDQp5DQo=\r\n", ""},
	{"global", "Content-Type: message/global\r\n\r\nSubject: in\r\n\r\none\r\n", "*:global"},
	{"other messages", multipart("b", "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\n--b\r\nContent-Type: message/external-body; access-type=x\r\n\r\nContent-Type: text/plain\r\n\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\nSubject: x\r\n--b--\r\n"), "BODYSTRUCTURE:lines BODY:lines 1.1:leaf 1.1.MIME:leaf"},
	{"signed", "Content-Type: multipart/signed; micalg=pgp-sha256;\r\n protocol=\"application/pgp-signature\"; boundary=\"=_b\"\r\n\r\n--=_b\r\n\r\none\r\n--=_b\r\nContent-Type: application/pgp-signature\r\n\r\nsig\r\n--=_b--\r\n", "BODYSTRUCTURE:lines BODY:lines 1.1:leaf 1.1.MIME:leaf"},
	{"deep", deepMessage(30), "BODYSTRUCTURE:lines BODY:lines 1:last-line 1.1:last-line"},
	{"very deep", deepMessage(120), "BODYSTRUCTURE:bounds BODY:bounds 1:last-line 1.1:last-line"},
	{"10 000 parts", multipart("b", strings.Repeat("--b\r\n\r\nx\r\n", 10_000)+"--b--\r\n"), "BODYSTRUCTURE:bounds BODY:bounds 1.1:leaf 1.1.MIME:leaf"},
}

// deepMessage has a text in so many multiparts.
func deepMessage(depth int) string {
	var b strings.Builder
	for i := range depth {
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d-\r\n\r\n--b%d-\r\n", i, i)
	}
	b.WriteString("\r\ntext\r\n")
	for i := depth - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "--b%d---\r\n", i)
	}
	return b.String()
}

// oddItems are asked of every message.
var oddItems = []string{
	"ENVELOPE", "BODYSTRUCTURE", "BODY", "RFC822.SIZE", "[]", "[HEADER]", "[TEXT]", "[HEADER.FIELDS (SUBJECT FROM)]", "[HEADER.FIELDS.NOT (SUBJECT FROM)]",
	"[1]", "[1.MIME]", "[2]", "[2.MIME]", "[3]", "[1.1]", "[1.HEADER]", "[1.TEXT]", "[1.1.MIME]", "[1.2]", "[1.2.HEADER]", "[]<5.10>", "[TEXT]<1.3>", "[1]<999999.5>",
}

var literals = regexp.MustCompile(`\{(\d+)\}\r\n`)

// quotedAll writes the literals of a list as quoted strings: servers choose.
func quotedAll(list string) string {
	for {
		at := literals.FindStringSubmatchIndex(list)
		if at == nil {
			return list
		}
		n, _ := strconv.Atoi(list[at[2]:at[3]])
		text := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(list[at[1] : at[1]+n])
		list = list[:at[0]] + `"` + text + `"` + list[at[1]+n:]
	}
}

// TestOddMessages: both servers read broken messages alike, but for what
// docs/imap-compared.md explains.
func TestOddMessages(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/imap-compared.md")
	if err != nil {
		t.Fatal(err)
	}
	b := besideDovecot(t)
	for _, c := range []*client{b.ours, b.theirs} {
		for _, m := range oddMessages {
			c.ok(fmt.Sprintf("APPEND INBOX ~{%d+}\r\n%s", len(m.text), m.text))
		}
		c.ok("SELECT INBOX")
	}
	for i, m := range oddMessages {
		listed := strings.Fields(m.differs)
		seen := make([]bool, len(listed))
		for _, item := range oddItems {
			name, isSection := item, strings.HasPrefix(item, "[")
			if isSection {
				name, _, _ = strings.Cut(item[1:], "]")
				name = strings.ReplaceAll(name, " (SUBJECT FROM)", "")
				item = "BODY.PEEK" + item
			}
			at := slices.IndexFunc(listed, func(d string) bool { return strings.HasPrefix(d, name+":") || strings.HasPrefix(d, "*:") })
			ours, theirs := b.both(fmt.Sprintf("FETCH %d %s", i+1, item))
			if !isSection {
				ours, theirs = quotedAll(ours), quotedAll(theirs)
			}
			switch {
			case ours != theirs && at < 0:
				t.Errorf("%s: %s:\n   ours %.3000q\nDovecot %.3000q", m.name, item, ours, theirs)
			case ours != theirs:
				seen[at] = true
				_, why, _ := strings.Cut(listed[at], ":")
				if !strings.Contains(string(doc), "| `"+why+"` |") {
					t.Errorf("%s: docs/imap-compared.md does not explain %q", m.name, why)
				}
			}
		}
		for k, d := range listed {
			if !seen[k] {
				t.Errorf("%s: %s is listed, and both answer alike", m.name, d)
			}
		}
	}
}
