package dsn

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/nearest"
	"github.com/postern-mail/postern/mail"
)

// File is a text of reports. Name is KIND.LANGUAGE, such as "failure.de", or
// words.LANGUAGE; after the last slash where there is one.
type File struct {
	Name string
	Text []byte
}

//go:embed templates
var templates embed.FS

// maxTextOctets bounds a File.
const maxTextOctets = 64 << 10

// Kinds of templates, and whether each must tell of recipients.
var templateKinds = map[string]bool{
	"failure": true, "delay": true, "success": true, "relayed": true, "expanded": true,
	"postmaster-failure": true, "postmaster-delay": true, "postmaster-double-bounce": true,
	"postmaster-resource": false, "postmaster-software": false,
}

var kindOfReport = map[mail.ReportKind]string{
	mail.ReportFailed: "failure", mail.ReportDelayed: "delay", mail.ReportDelivered: "success",
	mail.ReportRelayed: "relayed", mail.ReportExpanded: "expanded",
}

var kindOfNotice = map[mail.NoticeClass]string{
	mail.NoticeBounce: "postmaster-failure", mail.NoticeDelay: "postmaster-delay", mail.NoticeDoubleBounce: "postmaster-double-bounce",
	mail.NoticeResource: "postmaster-resource", mail.NoticeSoftware: "postmaster-software",
}

// placeholders are what may stand between braces in a text, and whether it may
// have several lines.
var placeholders = map[string]bool{
	"hostname": false, "queue_id": false, "sender": false, "arrived": false, "until": false,
	"recipients": true, "returned": true, "left_out": true, "detail": true,
}

// texts holds what there is in each language, by its tag in lower case.
type texts map[string]*language

type language struct {
	tag       string
	templates map[string]template
	words     map[string]phraseText
}

// template is a text with its header.
type template struct {
	from    string
	subject phraseText
	lines   []phraseText
}

// phraseText is text in pieces; nothing that fills it is read again.
type phraseText []piece

type piece struct{ literal, placeholder string }

func (t phraseText) fill(value func(placeholder string) string) string {
	var b strings.Builder
	for _, p := range t {
		b.WriteString(p.literal)
		if p.placeholder != "" {
			b.WriteString(value(p.placeholder))
		}
	}
	return b.String()
}

// builtin returns the texts that are part of the program.
func builtin() texts {
	t := make(texts)
	entries, err := templates.ReadDir("templates")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		text, err := templates.ReadFile("templates/" + e.Name())
		if err == nil {
			err = t.add(File{e.Name(), text})
		}
		if err != nil {
			panic(err) // a test reads them all
		}
	}
	return t
}

// add takes a file over. The error holds every mistake in it, with the line.
func (t texts) add(f File) error {
	base := f.Name[strings.LastIndexByte(f.Name, '/')+1:]
	kind, tag, _ := strings.Cut(base, ".")
	if _, known := templateKinds[kind]; !known && kind != "words" {
		kinds := append(slices.Sorted(maps.Keys(templateKinds)), "words")
		hint := ""
		if near := nearest.Word(kind, kinds); near != "" {
			hint = fmt.Sprintf("; did you mean %s?", near)
		}
		return fmt.Errorf("%s: a text is called KIND.LANGUAGE, such as failure.de, and %q is no kind%s", f.Name, kind, hint)
	}
	if !isTag(tag) {
		return fmt.Errorf("%s: a text is called KIND.LANGUAGE, such as failure.de, and %q is no language tag", f.Name, tag)
	}
	if len(f.Text) > maxTextOctets || !utf8.Valid(f.Text) || bytes.IndexByte(f.Text, 0) >= 0 {
		return fmt.Errorf("%s: is not UTF-8 text of at most %d octets", f.Name, maxTextOctets)
	}
	l := t[strings.ToLower(tag)]
	if l == nil {
		l = &language{tag: tag, templates: make(map[string]template), words: make(map[string]phraseText)}
		t[strings.ToLower(tag)] = l
	}
	r := &textReader{file: f.Name, lines: strings.Split(strings.TrimRight(strings.ReplaceAll(string(f.Text), "\r\n", "\n"), "\n"), "\n")}
	if kind == "words" {
		r.words(l.words)
	} else {
		l.templates[kind] = r.template(templateKinds[kind])
	}
	return errors.Join(r.errs...)
}

// textReader reads a file and collects its mistakes.
type textReader struct {
	file  string
	lines []string
	errs  []error
}

func (r *textReader) errorf(line int, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s:%d: %s", r.file, line+1, fmt.Sprintf(format, args...)))
}

// template reads a header with From and Subject, an empty line and the text.
func (r *textReader) template(tellsRecipients bool) template {
	var t template
	at := 0
	for ; at < len(r.lines) && strings.TrimSpace(r.lines[at]) != ""; at++ {
		name, value, ok := strings.Cut(r.lines[at], ":")
		value = strings.TrimSpace(value)
		switch name = strings.ToLower(strings.TrimSpace(name)); {
		case !ok:
			r.errorf(at, "a field of the header is needed here, such as \"Subject: Undelivered Mail\", or an empty line before the text")
		case len(value) > 200 || plainLine(value) != value:
			r.errorf(at, "%s is longer than 200 octets or has control characters", name)
		case name == "from":
			if t.from = value; strings.ContainsAny(value, "<>@,;:\"\\()[]") {
				r.errorf(at, "from is the name before the address, such as Mail Delivery System; the address is always that of MAILER-DAEMON")
			}
		case name == "subject":
			t.subject = r.phrase(at, value, func(multiline bool) bool { return !multiline })
		case name == "charset":
			if !strings.EqualFold(value, "utf-8") {
				r.errorf(at, "the charset is always UTF-8: convert the file and leave the field out")
			}
		default:
			r.errorf(at, "there is no field %q here; there are From and Subject", name)
		}
	}
	if len(t.subject) == 0 || t.from == "" {
		r.errorf(0, "the header needs From and Subject")
	}
	told := !tellsRecipients
	for at++; at < len(r.lines); at++ {
		line := r.phrase(at, r.lines[at], func(bool) bool { return true })
		told = told || slices.ContainsFunc(line, func(p piece) bool { return p.placeholder == "recipients" })
		t.lines = append(t.lines, line)
	}
	if !told {
		r.errorf(len(r.lines)-1, "the text does not say {recipients}: nobody would learn who got no mail, and why")
	}
	return t
}

// placeholderHint says what could stand in the place of a placeholder.
func placeholderHint(name string, known bool) string {
	names := slices.Sorted(maps.Keys(placeholders))
	if known {
		return ", it belongs into the text"
	}
	if near := nearest.Word(name, names); near != "" {
		return fmt.Sprintf("; did you mean {%s}?", near)
	}
	return "; there are {" + strings.Join(names, "}, {") + "}"
}

// phrase divides a line into pieces. {name} is a placeholder, {{ and }} are
// braces.
func (r *textReader) phrase(at int, line string, allowed func(multiline bool) bool) phraseText {
	var t phraseText
	literal := ""
	for line != "" {
		i := strings.IndexAny(line, "{}")
		if i < 0 {
			literal += line
			break
		}
		literal += line[:i]
		if line = line[i:]; len(line) > 1 && line[0] == line[1] {
			literal += line[:1]
			line = line[2:]
			continue
		}
		name, rest, closed := strings.Cut(line[1:], "}")
		if line[0] == '}' || !closed {
			r.errorf(at, "a single %q: write it twice to mean itself", line[:1])
			return t
		}
		if multiline, ok := placeholders[name]; !ok || !allowed(multiline) {
			r.errorf(at, "{%s} cannot stand here%s", name, placeholderHint(name, ok))
		}
		t = append(t, piece{literal, name})
		literal, line = "", rest
	}
	if literal != "" {
		t = append(t, piece{literal: literal})
	}
	return t
}

// wordPlaceholder is what each word may hold between braces.
var wordPlaceholder = map[string]string{
	"said": "remote", "reason": "", "sent-to": "address", "next-system": "", "more": "count",
	"returned-message": "", "returned-header": "",
}

// words reads lines "name: text". Names are those of wordPlaceholder, and status
// codes such as 5.1.1, 5.7 or 4, whose texts tell what to do.
func (r *textReader) words(into map[string]phraseText) {
	for at, line := range r.lines {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, text, ok := strings.Cut(line, ":")
		holds, known := wordPlaceholder[name]
		if !ok || !known && !isStatusCode(name) {
			r.errorf(at, "a line is NAME: TEXT, where NAME is a status code such as 5.1.1 or one of %s", strings.Join(slices.Sorted(maps.Keys(wordPlaceholder)), ", "))
			continue
		}
		if text = strings.TrimSpace(text); len(text) > 500 || plainLine(text) != text {
			r.errorf(at, "the text of %s is longer than 500 octets or has control characters", name)
			continue
		}
		before, after, found := strings.Cut(text, "{"+holds+"}")
		t := phraseText{{literal: text}}
		if holds != "" && found {
			t = phraseText{{before, holds}, {literal: after}}
		}
		if strings.ContainsAny(t[0].literal+t[len(t)-1].literal, "{}") || holds != "" && !found {
			r.errorf(at, "the text of %s holds %s, once", name, map[bool]string{true: "{" + holds + "}", false: "no braces"}[holds != ""])
			continue
		}
		into[name] = t
	}
}

// isStatusCode knows 4, 5.7 and 5.1.1.
func isStatusCode(s string) bool {
	parts := strings.Split(s, ".")
	if len(parts) > 3 || parts[0] != "4" && parts[0] != "5" {
		return false
	}
	for _, p := range parts {
		if n, err := strconv.Atoi(p); err != nil || n < 0 || n > 999 || p != strconv.Itoa(n) {
			return false
		}
	}
	return true
}

// template finds a kind of text in a language; what it lacks is in English.
func (t texts) template(language, kind string) (template, bool) {
	if l := t[language]; l != nil {
		if found, ok := l.templates[kind]; ok {
			return found, true
		}
	}
	return t[fallback].templates[kind], language == fallback
}

// word finds a word in a language; what it lacks is in English.
func (t texts) word(language, name string) phraseText {
	if l := t[language]; l != nil {
		if found, ok := l.words[name]; ok {
			return found
		}
	}
	return t[fallback].words[name]
}

// advice finds what to do about a status code: the text of the whole code, else
// of its beginning. A language that has none says nothing.
func (t texts) advice(language, code string) string {
	l := t[language]
	for l != nil && code != "" {
		if found, ok := l.words[code]; ok {
			return found.fill(nil)
		}
		code = code[:max(strings.LastIndexByte(code, '.'), 0)]
	}
	return ""
}
