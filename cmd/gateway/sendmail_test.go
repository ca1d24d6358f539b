package main

import (
	"context"
	"errors"
	"io"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

func TestSendmailOptions(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]sendmailOptions{
		"-t":                 {fromHeader: true},
		"-ti":                {fromHeader: true, ignoreDots: true},
		"-oi -t":             {fromHeader: true, ignoreDots: true},
		"-o i -t":            {fromHeader: true, ignoreDots: true},
		"-odb -oem -om -t":   {fromHeader: true},
		"-fa@b.example x":    {from: "a@b.example", fromGiven: true, recipients: []string{"x"}},
		"-r a@b.example x":   {from: "a@b.example", fromGiven: true, recipients: []string{"x"}},
		"-i -- -x y":         {ignoreDots: true, recipients: []string{"-x", "y"}},
		"-v -x -U -G -n x":   {recipients: []string{"x"}},
		"-h 5 -p ESMTP x":    {recipients: []string{"x"}},
		"-B 8bitmime x":      {body: mail.Body8BitMIME, recipients: []string{"x"}},
		"-R hdrs -V id x":    {ret: mail.ReturnHeaders, envelopeID: "id", recipients: []string{"x"}},
		"-N success,delay x": {notify: mail.NotifySuccess | mail.NotifyDelay, recipients: []string{"x"}},
		"-bm x":              {recipients: []string{"x"}},
		"-bp":                {mode: modeListQueue},
		"-bs":                {mode: modeSession},
		"-bi":                {mode: modeAliases},
		"-q":                 {mode: modeFlush, flush: url.Values{"all": {"true"}}},
		"-qRsite.example":    {mode: modeFlush, flush: url.Values{"destination": {"site.example"}}},
		"-qI25ABC":           {mode: modeFlush, flush: url.Values{"id": {"25ABC"}}},
	} {
		got, err := parseSendmail(strings.Fields(line))
		if len(got.recipients) == 0 {
			got.recipients = nil
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
	for _, line := range []string{"", "-i", "-Z x", "-f", "-bd", "-bz", "-q30m", "-B 9BIT x", "-R all x", "-N never,success x", "-N often x"} {
		_, err := parseSendmail(strings.Fields(line))
		var known *exitStatus
		if !errors.As(err, &known) || known.status != exUsage {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestCalledAs(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"/usr/sbin/sendmail -t": "sendmail -t", "mailq": "sendmail -bp", "newaliases": "sendmail -bi", "./postern queue list": "queue list",
	} {
		if got := strings.Join(calledAs(strings.Fields(line)), " "); got != want {
			t.Errorf("%s: %s", line, got)
		}
	}
}

// letterText reads a message as sendmail does and returns what is submitted.
func letterText(t *testing.T, text string, o sendmailOptions) (string, *letterFile) {
	t.Helper()
	l, err := readLetter(strings.NewReader(text), o)
	must(t, err)
	t.Cleanup(l.close)
	head := l.header(mail.MustAddress("kim@host.example"), "Kim", time.Date(2026, 11, 21, 18, 0, 0, 0, time.UTC))
	for range 2 { // for more recipients than one transaction takes
		in, err := l.content(head)
		must(t, err)
		all, err := io.ReadAll(in)
		must(t, err)
		if int64(len(all)) != int64(len(head))+l.bodyOctets {
			t.Errorf("%d octets, told %d", len(all), int64(len(head))+l.bodyOctets)
		}
		text = string(all)
	}
	return text, l
}

func TestLetter(t *testing.T) {
	t.Parallel()
	const author = "From: \"Kim\" <kim@host.example>\r\n"
	long := strings.Repeat("x", 200_000)
	for name, c := range map[string]struct {
		in, want string
		dots     bool
	}{
		"line ends":      {"From: a@b\nSubject: s\n\none\ntwo\r\nthree", "From: a@b\r\nSubject: s\r\n\r\none\r\ntwo\r\nthree\r\n", false},
		"dot ends":       {"From: a@b\n\none\n.\ntwo\n", "From: a@b\r\n\r\none\r\n", false},
		"dot ignored":    {"From: a@b\n\none\n.\n..two\n", "From: a@b\r\n\r\none\r\n.\r\n..two\r\n", true},
		"no author":      {"Subject: s\n\n", author + "Subject: s\r\n\r\n", false},
		"no header":      {"just text\n", author + "\r\njust text\r\n", false},
		"nothing":        {"", author + "\r\n", false},
		"separator":      {"From kim Sat Nov 21\nFrom: a@b\n\nFrom here\n", "From: a@b\r\n\r\nFrom here\r\n", false},
		"secrets":        {"Bcc: x@y,\n z@y\nFrom: a@b\nreturn-path: <x>\nX: y\n\n", "From: a@b\r\nX: y\r\n\r\n", false},
		"resent":         {"From: a@b\nResent-To: c@d\n\n", "Resent-Date: Sat, 21 Nov 2026 18:00:00 +0000\r\nResent-From: \"Kim\" <kim@host.example>\r\nFrom: a@b\r\nResent-To: c@d\r\n\r\n", false},
		"header cut off": {"From: a@b\n .", "From: a@b\r\n .\r\n\r\n", false},
		"long line":      {"From: a@b\n\n" + long + "\n.\n", "From: a@b\r\n\r\n" + long + "\r\n", false},
		"long last line": {"From: a@b\n\n" + long[:131072], "From: a@b\r\n\r\n" + long[:131072] + "\r\n", false},
		"CR at the seam": {"From: a@b\n\n" + long[:65535] + "\r\nend\n", "From: a@b\r\n\r\n" + long[:65535] + "\r\nend\r\n", false},
		"long dots":      {"From: a@b\n\n" + long[:65536] + ".\nend\n", "From: a@b\r\n\r\n" + long[:65536] + ".\r\nend\r\n", false},
	} {
		if got, _ := letterText(t, c.in, sendmailOptions{ignoreDots: c.dots}); got != c.want {
			t.Errorf("%s: %.200q, want %.200q", name, got, c.want)
		}
	}
}

// TestLargeLetter: what does not fit into memory comes back from the disk.
func TestLargeLetter(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("a line of a long message\r\n", 100_000)
	got, l := letterText(t, "From: a@b\n\n"+body, sendmailOptions{})
	if got != "From: a@b\r\n\r\n"+body {
		t.Errorf("%d octets of %d", len(got), len(body))
	}
	if l.file == nil || l.body.Len() > maxLetterMemory {
		t.Errorf("%d octets are in memory", l.body.Len())
	}
	_, err := readLetter(strings.NewReader("X: "+strings.Repeat("y\n z", maxLetterHeader/4)), sendmailOptions{})
	var known *exitStatus
	if !errors.As(err, &known) || known.status != exDataErr {
		t.Errorf("endless header: %v", err)
	}
}

func TestLetterRecipients(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"To: a@b, c@d\nCC: e@f\nBcc: g@h\nX-To: i@j\n\nTo: k@l\n": "a@b c@d e@f g@h",
		"To: a@b\nResent-Cc: c@d\nResent-Bcc: e@f\n\n":            "c@d e@f",
		"To: a@b,\n\tc@d\nTo: e@f\n\n":                            "a@b c@d e@f",
	} {
		if _, l := letterText(t, text, sendmailOptions{}); strings.Join(l.recipients(), " ") != want {
			t.Errorf("%q: %q", text, l.recipients())
		}
	}
}

func TestAddressPaths(t *testing.T) {
	t.Parallel()
	for list, want := range map[string][]string{
		"a@b": {"a@b"}, "root": {"root"}, "": nil, " , ,": nil, "<>": nil,
		"A B <a@b>, c@d":                 {"a@b", "c@d"},
		`"B, A" <a@b>, (x, (y)) c@d`:     {"a@b", "c@d"},
		`"a b"@c.example`:                {`"a b"@c.example`},
		`<"a>b"@c.example>`:              {`"a>b"@c.example`},
		"team: a@b, C <c@d>; e@f":        {"a@b", "c@d", "e@f"},
		"undisclosed-recipients:;":       nil,
		"a@[IPv6:::1], b@c":              {"a@[IPv6:::1]", "b@c"},
		"a@b (the\r\n boss)":             {"a@b"},
		`"open`:                          {`"open`},
		"(open":                          nil,
		"a@b c@d":                        {"a@b c@d"}, // which is no address
		`"quote \" inside" <a@b>, "\\",`: {"a@b", `"\\"`},
	} {
		if got := addressPaths(list); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", list, got, want)
		}
	}
}

// FuzzLetter: whatever comes, what is submitted has CRLF line ends only where
// it had line ends, no secrets, and is told its true length.
func FuzzLetter(f *testing.F) {
	for _, seed := range []string{"", ".", "To: a@b\n\n.\n", "From x\nBcc : a\n b\n\nx", "A:\r\n\r\n\r", ":\n", "To: \"(<,;:\\"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		out, l := letterText(t, text, sendmailOptions{ignoreDots: true})
		if !strings.HasSuffix(out, "\r\n") || strings.Contains(strings.ReplaceAll(out, "\r\n", ""), "\n") {
			t.Errorf("line ends of %q", out)
		}
		head, _, _ := strings.Cut(out, "\r\n\r\n")
		for line := range strings.SplitSeq(head, "\r\n") {
			if secret[fieldName(line)] {
				t.Errorf("%q is left", line)
			}
		}
		for _, path := range l.recipients() {
			if strings.TrimSpace(path) == "" {
				t.Errorf("an empty address in %q", text)
			}
		}
	})
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	for reason, want := range map[status.Reason]int{
		status.NoSuchUser: exNoUser, status.SenderNotOwned: exNoPerm, status.MessageTooBig: exDataErr,
		status.DirectoryDown: exTempFail, status.ConnectionLost: exTempFail,
	} {
		if got := exitOf(status.New(reason, nil)); got != want {
			t.Errorf("%s: %d, want %d", reason, got, want)
		}
	}
}

// directoryOwner gives one address to one login.
type directoryOwner struct{}

func (directoryOwner) MaySendAs(_ context.Context, id mail.Identity, a mail.Address) (bool, error) {
	return id.Authentication == "kim" && a.String() == "kim@example.com", nil
}

func (directoryOwner) Owners(context.Context, mail.Address) ([]string, error) { return nil, nil }

func TestLocalUsersWriteAsThemselves(t *testing.T) {
	t.Parallel()
	o := localOwners{directoryOwner{}, &config.SMTPListener{TrustedUsers: []string{"www"}}, "host.example"}
	for _, c := range []struct {
		user, from string
		want       bool
	}{
		{"kim", "kim@host.example", true},
		{"kim", "kim@HOST.example", true},
		{"kim", "root@host.example", false},
		{"kim", "kim@example.com", true},
		{"lee", "kim@example.com", false},
		{"lee", "lee@elsewhere.example", false},
		{"uid:1000", "kim@host.example", false},
		{"www", "kim@example.com", true},
		{"root", "anybody@elsewhere.example", true},
	} {
		if got, err := o.MaySendAs(t.Context(), mail.Identity{Authentication: c.user}, mail.MustAddress(c.from)); got != c.want || err != nil {
			t.Errorf("%s as %s: %v, %v", c.user, c.from, got, err)
		}
	}
}
