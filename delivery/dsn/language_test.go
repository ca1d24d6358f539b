package dsn

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-message"

	"github.com/postern-mail/postern/mail"
)

// composeWith composes with a configuration of its own.
func composeWith(t testing.TB, cfg Config, r mail.Report) string {
	t.Helper()
	cfg.Hostname = "mail.example.net"
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := c.Compose(&b, r, now, "id1"); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestLanguage: which language a report has, by configuration and by what the
// message tells.
func TestLanguage(t *testing.T) {
	t.Parallel()
	domains := map[string][]string{"Example.DE": {"de"}, ".cn": {"zh"}, "both.example": {"de", "en"}}
	for name, tt := range map[string]struct {
		cfg    Config
		sender string
		header string
		want   string
	}{
		"nothing known":         {want: "en"},
		"configured":            {cfg: Config{Languages: []string{"de-AT"}}, want: "de"},
		"two":                   {cfg: Config{Languages: []string{"zh", "en"}}, want: "zh-Hans, en"},
		"domain":                {cfg: Config{LanguagesOf: domains}, sender: "a@example.de", want: "de"},
		"not below the domain":  {cfg: Config{LanguagesOf: domains}, sender: "a@sub.example.de", want: "en"},
		"below a domain":        {cfg: Config{LanguagesOf: domains}, sender: "a@mail.example.cn", want: "zh-Hans"},
		"two of a domain":       {cfg: Config{LanguagesOf: domains}, sender: "a@both.example", want: "de, en"},
		"domain before message": {cfg: Config{LanguagesOf: domains}, sender: "a@example.de", header: "Accept-Language: zh\r\n", want: "de"},
		"accepted":              {header: "Accept-Language: fr, en;q=0.5, de-CH;q=0.8\r\n", want: "de"},
		"content":               {header: "Content-Language: zh-CN\r\n", want: "zh-Hans"},
		"accepted first":        {header: "Content-Language: zh-CN\r\nAccept-Language: de\r\n", want: "de"},
		"folded":                {header: "accept-language:\r\n fr,\r\n\tde\r\n", want: "de"},
		"traditional":           {header: "Content-Language: zh-Hant, zh-TW\r\n", want: "en"},
		"unknown":               {header: "Accept-Language: tlh, *\r\n", want: "en"},
		"refused":               {header: "Accept-Language: de;q=0\r\n", want: "en"},
		"ignored":               {cfg: Config{IgnoreSender: true}, header: "Accept-Language: de\r\n", want: "en"},
		"in the body":           {header: "X: y\r\n\r\nAccept-Language: de\r\n", want: "en"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := sample(mail.ReportFailed)
			if tt.sender != "" {
				r.Envelope.ReversePath = mail.MustAddress(tt.sender)
			}
			r.Open = open(tt.header + letter)
			entity, err := message.Read(strings.NewReader(composeWith(t, tt.cfg, r)))
			if err != nil {
				t.Fatal(err)
			}
			part, err := entity.MultipartReader().NextPart()
			if err != nil {
				t.Fatal(err)
			}
			if got := part.Header.Get("Content-Language"); got != tt.want {
				t.Errorf("language %q, want %q", got, tt.want)
			}
		})
	}
}

func TestUnknownLanguageConfigured(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Languages: []string{"fr"}, LanguagesOf: map[string][]string{"example.no": {"no"}}})
	if err == nil || !strings.Contains(err.Error(), `"fr"; there are some in de, en, zh-Hans`) || !strings.Contains(err.Error(), `"no"`) {
		t.Errorf("%v", err)
	}
}

// TestBuiltinLanguages: each language says everything in its own words, tells
// who and why, and can be read back after its encoding.
func TestBuiltinLanguages(t *testing.T) {
	t.Parallel()
	english := builtin()[fallback]
	for tag, l := range builtin() {
		for kind := range english.templates {
			if _, ok := l.templates[kind]; !ok && !strings.HasPrefix(kind, "postmaster-") {
				t.Errorf("%s lacks %s", tag, kind)
			}
		}
		for name := range english.words {
			if _, ok := l.words[name]; !ok {
				t.Errorf("words.%s lacks %q", tag, name)
			}
		}
		for kind := mail.ReportFailed; kind <= mail.ReportExpanded; kind++ {
			r := sample(kind)
			r.Until = arrived
			s := composeWith(t, Config{Languages: []string{tag}}, r)
			if !isASCII([]byte(s)) {
				t.Errorf("%s %v is not ASCII", tag, kind)
			}
			p := parse(t, s)
			subject, err := p.header.Text("Subject")
			if want := l.templates[kindOfReport[kind]].subject.fill(nil); err != nil || subject != want {
				t.Errorf("subject %q, want %q (%v)", subject, want, err)
			}
			for _, want := range []string{"<a@example.com>", "mail.example.net"} {
				if !strings.Contains(p.parts[0], want) {
					t.Errorf("%s %v does not tell %s:\n%s", tag, kind, want, p.parts[0])
				}
			}
		}
	}
}

// TestSeveralLanguages: one text after the other, the subject in the first.
func TestSeveralLanguages(t *testing.T) {
	t.Parallel()
	p := parse(t, composeWith(t, Config{Languages: []string{"de", "en"}}, sample(mail.ReportFailed)))
	subject, _ := p.header.Text("Subject")
	german, english := strings.Index(p.parts[0], "Diese Adresse gibt es dort nicht"), strings.Index(p.parts[0], "There is no such address there")
	if !strings.HasPrefix(subject, "Unzustellbar") || german < 0 || english < german {
		t.Errorf("subject %q, text\n%s", subject, p.parts[0])
	}
}

func TestTemplateMistakes(t *testing.T) {
	t.Parallel()
	const head = "From: Us\nSubject: s\n\n"
	for name, tt := range map[string]struct{ file, text, want string }{
		"kind":          {"failures.de", "", "failures.de: a text is called KIND.LANGUAGE, such as failure.de, and \"failures\" is no kind; did you mean failure?"},
		"language":      {"failure", "", "no language tag"},
		"odd language":  {"failure.de_DE", "", "no language tag"},
		"not UTF-8":     {"failure.de", head + "\xfcber {recipients}", "is not UTF-8"},
		"placeholder":   {"failure.de", head + "{recipients}\n{quue_id}", "failure.de:5: {quue_id} cannot stand here; did you mean {queue_id}?"},
		"brace":         {"failure.de", head + "{recipients} }", "failure.de:4: a single \"}\""},
		"open brace":    {"failure.de", head + "{recipients} {", "failure.de:4: a single \"{\""},
		"nobody told":   {"failure.de", head + "sorry\n", "failure.de:4: the text does not say {recipients}"},
		"no subject":    {"failure.de", "From: Us\n\n{recipients}", "failure.de:1: the header needs From and Subject"},
		"header":        {"failure.de", "Subject: x\nHello\n\n{recipients}", "failure.de:2: a field of the header"},
		"unknown field": {"failure.de", head[:len(head)-1] + "Bcc: x\n\n{recipients}", `failure.de:3: there is no field "bcc"`},
		"address":       {"failure.de", "From: Us <a@b>\nSubject: s\n\n{recipients}", "failure.de:1: from is the name"},
		"long subject":  {"failure.de", "From: Us\nSubject: {recipients}\n\n{recipients}", "failure.de:2: {recipients} cannot stand here"},
		"charset":       {"failure.de", "Charset: iso-8859-1\n" + head + "{recipients}", "failure.de:1: the charset is always UTF-8"},
		"control":       {"failure.de", "From: Us\x01\nSubject: s\n\n{recipients}", "control characters"},
		"word":          {"words.de", "sayd: {remote}", "words.de:1: a line is NAME: TEXT"},
		"word's value":  {"words.de", "\n# fine\nsaid: hello", "words.de:3: the text of said holds {remote}, once"},
		"two values":    {"words.de", "said: {remote} {remote}", "holds {remote}, once"},
		"advice":        {"words.de", "5.1.1: {remote}", "holds no braces, once"},
		"status":        {"words.de", "2.1.5: fine", "words.de:1: a line is"},
		"too large":     {"failure.de", head + "{recipients}" + strings.Repeat("x", maxTextOctets), "at most 65536 octets"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := New(Config{Files: []File{{tt.file, []byte(tt.text)}}})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestTemplateReplaces: a file takes the place of a built-in text and nothing
// else; braces and values are what they are.
func TestTemplateReplaces(t *testing.T) {
	t.Parallel()
	cfg := Config{Files: []File{
		{"/etc/reports/failure.en", []byte("From: Postroom\r\nSubject: {queue_id} was not delivered\r\nCharset: UTF-8\r\n\r\n{{sender}} is {sender}, since {arrived}.\r\n\r\n{recipients}\r\n{left_out}\r\nBye.\r\n")},
		{"words.en", []byte("5.1.1: Ask the help desk.\n")},
	}}
	r := sample(mail.ReportFailed)
	r.QueueID = "{hostname}"
	p := parse(t, composeWith(t, cfg, r))
	if got := p.header.Get("Subject"); got != "{hostname} was not delivered" {
		t.Errorf("subject %q", got)
	}
	if got := p.header.Get("From"); got != "Postroom <MAILER-DAEMON@mail.example.net>" {
		t.Errorf("from %q", got)
	}
	want := "{sender} is <sender@example.org>, since 2026-11-21 12:04:05 +0000.\r\n\r\n  <a@example.com>\r\n    (sent to <alias@example.com>)\r\n    Ask the help desk.\r\n"
	if !strings.HasPrefix(p.parts[0], want) || !strings.HasSuffix(strings.TrimRight(p.parts[0], "\r\n"), "Connection lost\r\nBye.") {
		t.Errorf("text\n%s\nwant\n%s", p.parts[0], want)
	}
	r.Kind = mail.ReportRelayed
	if p := parse(t, composeWith(t, cfg, r)); p.header.Get("Subject") != "Successful Mail Delivery Report" {
		t.Errorf("subject %q", p.header.Get("Subject"))
	}
}

// TestOwnLanguage: a language that is not built in; what it lacks is English.
func TestOwnLanguage(t *testing.T) {
	t.Parallel()
	cfg := Config{Languages: []string{"nl"}, Files: []File{
		{"failure.nl", []byte("From: Postsysteem\nSubject: Niet bezorgd\n\n{recipients}\n{returned}\n")},
	}}
	p := parse(t, composeWith(t, cfg, sample(mail.ReportFailed)))
	if !strings.Contains(p.parts[0], "mx.example.com said:") || strings.Contains(p.parts[0], "no such address") {
		t.Errorf("text\n%s", p.parts[0])
	}
	p = parse(t, composeWith(t, cfg, sample(mail.ReportDelayed)))
	if !strings.Contains(p.parts[0], "has not been delivered yet") {
		t.Errorf("text\n%s", p.parts[0])
	}
}

// FuzzTemplate: whatever stands in a file is refused or used, and what is used
// makes a whole report.
func FuzzTemplate(f *testing.F) {
	for _, name := range []string{"failure.en", "words.en"} {
		text, err := templates.ReadFile("templates/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(name, string(text))
	}
	f.Add("failure.x", "From: a\nSubject: {sender}\n\n{recipients}{recipients}\r\n--report_id1--\n")
	f.Fuzz(func(t *testing.T, name, text string) {
		c, err := New(Config{Files: []File{{name, []byte(text)}}})
		if err != nil {
			return
		}
		var b bytes.Buffer
		if _, err := c.Compose(&b, sample(mail.ReportFailed), now, "id1"); err != nil {
			t.Fatal(err)
		}
		if p := parse(t, b.String()); len(p.parts) != 3 || len(p.rcpts) != 2 {
			t.Fatalf("parts %d in\n%s", len(p.parts), b.String())
		}
	})
}

// FuzzAcceptLanguage: only tags come out, and few.
func FuzzAcceptLanguage(f *testing.F) {
	f.Add("de-CH, fr;q=0.9, *;q=0.1")
	f.Add(strings.Repeat("a,", 1000))
	f.Add("de;q=NaN, en ; Q = 1e9, -, zh--")
	f.Fuzz(func(t *testing.T, value string) {
		tags := acceptLanguage(value)
		if len(tags) > maxLanguages || slices.ContainsFunc(tags, func(s string) bool { return !isTag(s) }) {
			t.Errorf("%q", tags)
		}
	})
}
