package checks

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/content"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

func message(t testing.TB, text string) *content.Message {
	t.Helper()
	spool, err := content.OpenSpool(content.SpoolConfig{Dir: filepath.Join(t.TempDir(), "tmp")}, fsx.OS())
	if err != nil {
		t.Fatal(err)
	}
	fields, end := content.Split([]byte(text))
	m, err := content.New(spool, content.Limits{}, nil, fields, strings.NewReader(text[end:]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func route(text string) (mail.Route, error) {
	target, hop, ok := strings.Cut(text, ":")
	if !ok {
		return mail.Route{}, fmt.Errorf("FILTER needs target:next-hop, not %q", text)
	}
	return mail.Route{Transport: target, NextHop: hop}, nil
}

// stage makes a stage with a table of the lines.
func stage(t testing.TB, name, kind, lines string, args map[string][]string, list ...string) *Stage {
	t.Helper()
	path := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := policy.Spec{Name: name, Args: map[string][]string{"table": {kind + ":" + path}}}
	for k, v := range args {
		spec.Args[k] = v
	}
	cfg := Config{Tables: &table.Opener{}, Routes: route}
	for _, other := range list {
		cfg.List = append(cfg.List, policy.Spec{Name: other})
	}
	s, err := New(spec, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const sample = "Received: from a\r\n\tby b\r\n" +
	"Subject: Hello\r\n World\r\n" +
	"Content-Type: multipart/mixed; boundary=b\r\n" +
	"\r\n" +
	"preamble\r\n" +
	"--b\r\n" +
	"Content-Type: text/plain\r\n" +
	"X-Part: one\r\n" +
	"\r\n" +
	"first line\r\n" +
	"second line\r\n" +
	"--b\r\n" +
	"Content-Type: message/rfc822\r\n" +
	"\r\n" +
	"From: nested@example.com\r\n" +
	"Subject: inner\r\n" +
	"\r\n" +
	"nested body\r\n" +
	"--b--\r\n"

// apply evaluates a stage and applies what it asks for.
func apply(t testing.TB, s *Stage, text string) (v mail.Verdict, result string) {
	t.Helper()
	m := message(t, text)
	v, err := s.Evaluate(t.Context(), &mail.Transaction{Message: m})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.ApplyAll(v.Edits); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(m.NewReader())
	if err != nil {
		t.Fatal(err)
	}
	return v, string(out)
}

// TestActions: each action at a header field, a field of a part and a line.
func TestActions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, stage, table string
		want               string // the change "old->new" of sample, or the verdict
	}{
		{"no match", Header, "/^nothing/ REJECT", "dunno"},
		{"dunno", Header, "/^subject:/ DUNNO\n/^subject/ REJECT", "dunno"},
		{"first match counts", Header, "/^subject:/ IGNORE\n/^subject/ REJECT", "Subject: Hello\r\n World\r\nCont->Cont|Subject: inner\r\n->"},
		{"a folded field is one", Header, "/^Subject: Hello\\n World$/ REJECT one", "reject 550 5.7.1 one"},
		{"received of ours, too", Header, "/^Received:.*by b/ IGNORE", "Received: from a\r\n\tby b\r\n->"},
		{"replace", Header, "/^Subject: (Hello)/ REPLACE Subject: [$1]", "Subject: Hello\r\n World->Subject: [Hello]"},
		{"replace, keeping the folds", Header, "/^Subject:( Hello.*)/ REPLACE X-Was:$1", "Subject: Hello->X-Was: Hello"},
		{"prepend", Header, "/^Subject: Hello/ PREPEND X-New: yes", "Subject: Hello->X-New: yes\r\nSubject: Hello"},
		{"strip", Header, "/^Subject: Hello/ STRIP gone", "Subject: Hello\r\n World\r\n->"},
		{"part, ignore", MIMEHeader, "/^X-Part:/ IGNORE", "X-Part: one\r\n->"},
		{"part, replace", MIMEHeader, "/^X-Part: (.*)/ REPLACE X-Other: $1", "X-Part: one->X-Other: one"},
		{"part, prepend", MIMEHeader, "/^X-Part:/ PREPEND X-New: 1", "X-Part: one->X-New: 1\r\nX-Part: one"},
		{"nested, replace", NestedHeader, "/^Subject: (.*)/ REPLACE Subject: <$1>", "Subject: inner->Subject: <inner>"},
		{"line, ignore", Body, "/^second/ IGNORE", "second line\r\n->"},
		{"line, replace", Body, "/^(first) line/ REPLACE $1 word", "first line->first word"},
		{"line, prepend", Body, "/^second/ PREPEND between", "second line->between\r\nsecond line"},
		{"lines next to each other", Body, "/ line$/ IGNORE", "first line\r\nsecond line\r\n->"},
		{"replace and prepend", Body, "/^first/ REPLACE one\n/^second/ PREPEND two", "first line\r\nsecond->one\r\ntwo\r\nsecond"},
		{"an empty line stays", Body, "/^$/ IGNORE", "dunno"},
		{"boundaries are lines", Body, "/^--b$/ REJECT boundary", "reject 550 5.7.1 boundary"},
		{"reject", Body, "/nested body/ REJECT", "reject 550 5.7.1 Message content rejected"},
		{"reject with code", Header, "/^Subject/ REJECT 5.7.9 Not this one", "reject 550 5.7.9 Not this one"},
		{"reject for now", Header, "/^Subject/ REJECT 4.7.0 Later", "reject 451 4.7.0 Later"},
		{"reject undoes what was before", Header, "/^Received/ IGNORE\n/^Subject/ REJECT", "reject 550 5.7.1 Message content rejected"},
		{"discard", Body, "/first/ DISCARD", "discard"},
		{"hold", Body, "/first/ HOLD for a look", "hold"},
		{"warn", Body, "/first/ WARN seen", "dunno: warn: body first line: seen"},
		{"info", Header, "/^Subject: Hello/ INFO seen", "dunno: info: header Subject: Hello  World: seen"},
		{"filter", Header, "/^Subject: Hello/ FILTER scan:127.0.0.1:10025", "route scan 127.0.0.1:10025"},
		{"redirect", Header, "/^Subject: Hello/ REDIRECT a@example.com", "redirect a@example.com"},
		{"bcc", Header, "/^Subject: Hello/ BCC a@example.com", "copy a@example.com"},
		{"pass", Header, "/^Received/ PASS\n/^Subject/ REJECT", "pass"},
		{"if", Header, "if /^Subject:/\n/World/ REJECT inside\nendif", "reject 550 5.7.1 inside"},
		{"negated", Body, "if !/^--/\n!/ / REJECT no space\nendif", "reject 550 5.7.1 no space"},
		{"letter case", Header, "/^SUBJECT: HELLO/ REJECT a\n", "reject 550 5.7.1 a"},
		{"letter case counts", Header, "/^SUBJECT: HELLO/i REJECT a\n", "dunno"},
	} {
		v, got := apply(t, stage(t, tt.stage, "regexp", tt.table, nil, Names()...), sample)
		if tt.name == "first match counts" {
			v, got = apply(t, stage(t, tt.stage, "regexp", tt.table, nil, Header), sample)
		}
		want, said := sample, v.Action.String()
		switch {
		case v.Action == mail.Reject:
			r := v.WireReply()
			said += fmt.Sprintf(" %d %s %s", r.Code, r.EnhancedString(), r.Text)
		case len(v.Findings) == 1:
			said = v.Findings[0].Result
		case len(v.Edits) == 1 && v.Edits[0].OfEnvelope():
			switch e := v.Edits[0]; {
			case e.Route != nil:
				said = "route " + e.Route.Transport + " " + e.Route.NextHop
			case e.Redirect != nil:
				said = "redirect " + e.Redirect.String()
			case e.Copy != nil:
				said = "copy " + e.Copy.String()
			}
		case strings.Contains(tt.want, ":") && v.Action == mail.Dunno && v.Detail != "" && !strings.Contains(tt.want, "->"):
			said += ": " + v.Detail
		}
		if strings.Contains(tt.want, "->") {
			said = tt.want
			for change := range strings.SplitSeq(tt.want, "|") {
				before, after, _ := strings.Cut(change, "->")
				if !strings.Contains(want, before) {
					t.Fatalf("%s: there is no %q", tt.name, before)
				}
				want = strings.Replace(want, before, after, 1)
			}
		}
		if said != tt.want || got != want {
			t.Errorf("%s: %s, wanted %s\n%s", tt.name, said, tt.want, got)
		}
	}
}

// TestWhoSeesWhat: the fields that each stage looks at, alone and with others.
func TestWhoSeesWhat(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		stage string
		list  []string
		want  string
	}{
		{Header, []string{Header}, "Received,Subject,Content-Type,Content-Type,X-Part,Content-Type,From,Subject"},
		{Header, []string{Header, MIMEHeader}, "Received,Subject,From,Subject"},
		{Header, []string{Header, NestedHeader}, "Received,Subject,Content-Type,Content-Type,X-Part,Content-Type"},
		{Header, Names(), "Received,Subject"},
		{MIMEHeader, Names(), "Content-Type,Content-Type,X-Part,Content-Type"},
		{NestedHeader, Names(), "From,Subject"},
	} {
		v, _ := apply(t, stage(t, tt.stage, "pcre", "/^([^:]*):/ INFO $1", nil, tt.list...), sample)
		var seen []string
		for line := range strings.SplitSeq(v.Detail, "; info: ") {
			seen = append(seen, line[strings.LastIndex(line, " ")+1:])
		}
		if got := strings.Join(seen, ","); got != tt.want {
			t.Errorf("%s in %v saw %s", tt.stage, tt.list, got)
		}
	}
}

// TestBodyLimit: so much of each body is looked at.
func TestBodyLimit(t *testing.T) {
	t.Parallel()
	text := "A: b\r\n\r\n" + strings.Repeat("0123456789\r\n", 10) + "end\r\n"
	for limit, want := range map[string]mail.Action{"112": mail.Reject, "111": mail.Dunno, "0": mail.Reject} {
		v, _ := apply(t, stage(t, Body, "regexp", "/^end/ REJECT", map[string][]string{"body_checks_size_limit": {limit}}), text)
		if v.Action != want {
			t.Errorf("limit %s: %s", limit, v.Action)
		}
	}
}

// TestOctets: what is no text does not hide from a pattern, and comes out as it
// was.
func TestOctets(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"\xff", "a\x80b", "\xef\x9a\x80", "ü\xfc", "\xf0\x9f\x98\x80\xfe", "plain", "\x00"} {
		if got := asOctets(asText([]byte(text))); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	_, got := apply(t, stage(t, Header, "regexp", "/^Subject:(.*)secret(.*)$/ REPLACE Subject:$1-$2", nil), "Subject: \xfc secret \xff\xef\x9a\x80\r\n\r\nx\r\n")
	if want := "Subject: \xfc - \xff\xef\x9a\x80\r\n\r\nx\r\n"; got != want {
		t.Errorf("got %q", got)
	}
}

// TestHeaderOfMany: a header of many fields is taken apart in one go, or not.
func TestHeaderOfMany(t *testing.T) {
	t.Parallel()
	s := stage(t, Header, "regexp", "/^X-Spam:/ IGNORE", nil)
	text := strings.Repeat("X-Spam: y\r\n", 9000) + "Subject: x\r\n\r\nx\r\n"
	if _, got := apply(t, s, text); got != "Subject: x\r\n\r\nx\r\n" {
		t.Errorf("got %.100q", got)
	}
	m := message(t, strings.Repeat("X-Spam: y\r\n", 20000)+"\r\n")
	v, err := s.Evaluate(t.Context(), &mail.Transaction{Message: m})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.ApplyAll(v.Edits); err == nil || len(m.Fields()) != 20000 {
		t.Errorf("more edits than may be: %v, %d fields", err, len(m.Fields()))
	}
	if _, err := stage(t, Body, "regexp", "/x/ IGNORE", map[string][]string{"body_checks_size_limit": {"0"}}).Evaluate(t.Context(),
		&mail.Transaction{Message: message(t, "A: b\r\n\r\n"+strings.Repeat("x\r\n", 20000))}); err == nil {
		t.Error("more changes of a body than may be")
	}
}

func TestNesting(t *testing.T) {
	t.Parallel()
	text := "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n"
	v, _ := apply(t, stage(t, Body, "regexp", "/nothing/ REJECT", map[string][]string{"mime_nesting_limit": {"1"}}), text)
	if r := v.WireReply(); v.Action != mail.Reject || r.Code != 550 || r.EnhancedString() != "5.6.0" {
		t.Errorf("%s %v", v.Action, v.WireReply())
	}
	if v, _ = apply(t, stage(t, Body, "regexp", "/nothing/ REJECT", map[string][]string{"mime_nesting_limit": {"2"}}), text); v.Action != mail.Dunno {
		t.Errorf("at the limit: %s", v.Action)
	}
	flat := map[string][]string{"disable_mime_input_processing": {"yes"}}
	if v, _ = apply(t, stage(t, Header, "regexp", "/^X-Part/ REJECT", flat), sample); v.Action != mail.Dunno {
		t.Errorf("without MIME a part has a header")
	}
}

func TestPassEndsTheChecksThatFollow(t *testing.T) {
	t.Parallel()
	m := message(t, sample)
	tx := &mail.Transaction{Message: m}
	v, err := stage(t, Header, "regexp", "/^Received/ PASS", nil).Evaluate(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	tx.Findings = v.Findings
	if v, err = stage(t, Body, "regexp", "/./ REJECT", nil).Evaluate(t.Context(), tx); err != nil || v.Action != mail.Dunno {
		t.Errorf("%s, %v", v.Action, err)
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, stage, table string
		args               map[string][]string
		want               string
	}{
		{"unknown action", Header, "/x/ REFUSE", nil, "is no action"},
		{"no action", Header, "/x/", nil, "stands for nothing"},
		{"replace by nothing", Header, "/x/ REPLACE", nil, "needs a text"},
		{"replace by no field", Header, "/x/ REPLACE hello", nil, "needs a field"},
		{"filter", Header, "/x/ FILTER nowhere", nil, "needs target:next-hop"},
		{"redirect", Header, "/x/ REDIRECT nobody at all", nil, "needs an address"},
		{"bad code", Header, "/x/ REJECT 2.0.0 ok", nil, "begins with 4 or 5"},
		{"attribute", Header, "/x/ REJECT", map[string][]string{"size": {"1"}}, "does not know"},
		{"size of header", Header, "/x/ REJECT", map[string][]string{"body_checks_size_limit": {"1"}}, "does not know"},
		{"number", Body, "/x/ REJECT", map[string][]string{"body_checks_size_limit": {"many"}}, "write a number"},
		{"yes or no", Body, "/x/ REJECT", map[string][]string{"disable_mime_input_processing": {"maybe"}}, "yes or no"},
		{"no table", Body, "", map[string][]string{"table": nil}, "needs one table"},
	} {
		path := filepath.Join(t.TempDir(), "table")
		if err := os.WriteFile(path, []byte(tt.table+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		spec := policy.Spec{Name: tt.stage, Args: map[string][]string{"table": {"regexp:" + path}}}
		for k, v := range tt.args {
			spec.Args[k] = v
		}
		if _, err := New(spec, Config{Tables: &table.Opener{}, Routes: route}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestTableThatFails: a lookup that fails is no decision.
func TestTableThatFails(t *testing.T) {
	t.Parallel()
	s, err := New(policy.Spec{Name: Header, Args: map[string][]string{"table": {"fail:broken"}}}, Config{Tables: &table.Opener{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Evaluate(t.Context(), &mail.Transaction{Message: message(t, sample)}); status.Of(err) != status.ConfigurationError {
		t.Error(err)
	}
	s = stage(t, Header, "regexp", "/^Subject: (.*)/ $1", nil)
	if _, err := s.Evaluate(t.Context(), &mail.Transaction{Message: message(t, sample)}); status.Of(err) != status.ConfigurationError {
		t.Errorf("a sender chose the action: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := stage(t, Body, "regexp", "/x/ REJECT", nil).Evaluate(ctx, &mail.Transaction{Message: message(t, sample)}); err == nil {
		t.Error("no time left, and decided")
	}
}

// FuzzChecks: whatever a message holds, the changes leave a message.
func FuzzChecks(f *testing.F) {
	f.Add(sample)
	f.Add("A: b\r\n\r\n--b\r\n")
	header := stage(f, Header, "regexp", "/^[A-M].*(.)/ REPLACE X-$1: $1\n/^X/ IGNORE\n/^S/ PREPEND X: y", nil, Header)
	body := stage(f, Body, "regexp", "/^(.*)a(.*)$/ REPLACE $2$1\n/b/ IGNORE\n/c/ PREPEND c", nil)
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ReplaceAll(strings.NewReplacer("\r", " ").Replace(text), "\n", "\r\n")
		for _, s := range []*Stage{header, body} {
			m := message(t, text)
			v, err := s.Evaluate(t.Context(), &mail.Transaction{Message: m})
			if err != nil {
				continue // a field that its own octets make none
			}
			if err := m.ApplyAll(v.Edits); err != nil {
				t.Fatal(err)
			}
			out, err := io.ReadAll(m.NewReader())
			if err != nil {
				t.Fatal(err)
			}
			if left := strings.ReplaceAll(string(out), "\r\n", ""); strings.ContainsAny(left, "\r\n") {
				t.Fatalf("bare CR or LF in %q", out)
			}
			if fields, _ := content.Split(out); !slices.Equal(fields, m.Fields()) {
				t.Fatalf("fields %q are read as %q", m.Fields(), fields)
			}
		}
	})
}
