package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth/arc"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// everyStep is a list with all that can change a message, in one order, with
// what signs it at its end.
const everyStep = `
dns { servers = ["{{.Extra.names}}"] }
gateway {
  milter "test" { address = "{{.Extra.filter}}" }
  rule "from outside" {
    when { direction = "incoming" }
    then {
      tag     = "[EXTERNAL]"
      headers = ["X-By-Rule: yes"]
      strip   = ["X-Rule-Strips"]
      banner  = "Look twice."
    }
  }
  policy "content" {
    authenticate {}
    header_checks { table = "pcre:{{.Dir}}/before" }
    milter { use = milter.test }
    rules {}
    header_checks { table = "pcre:{{.Dir}}/after" }
    sign_dkim { for = "everyone" }
    seal_arc {
      when   = "always"
      domain = "example.com"
    }
  }
  domains "relay" {
    names   = ["far.example"]
    deliver = target.outside
  }
`

// TestSignedLast brings a message through a list in which everything changes it,
// and looks at the octets that leave: each step saw what those before it left,
// the signature covers what all of them made of it, and the seal continues the
// chain that came.
func TestSignedLast(t *testing.T) {
	t.Parallel()
	names, tap := dnstest.New(t), startWireTap(t)
	public, private, err := ed25519.GenerateKey(nil)
	must(t, err)
	names.Add(`s1._domainkey.list.example. 60 TXT "v=DKIM1; k=ed25519; p=` + base64.StdEncoding.EncodeToString(public) + `"`)
	list, err := dkim.NewKey("list.example", "s1", private)
	must(t, err)
	filter := startFilter(t, &testFilter{edits: func(header []string, body string) []string {
		return []string{
			changeField(1, "Subject", valueOf(header, "Subject")+", filtered"),
			changeField(1, "X-Filter-Deletes", ""),
			insertField(1, "X-Filter-Inserts", fmt.Sprintf("%d fields", len(header))),
			addField("X-Filter-Adds", "1"),
			replaceBody(strings.ReplaceAll(body, "secret", "******")), replaceBody("The filter's last line\r\n"),
		}
	}})
	s := newSite(t, variant(t, strings.Replace(standard, "gateway {", everyStep, 1), nobodyListens, tap.Address), map[string]string{"names": names.Addr, "filter": filter.Address})
	must(t, os.WriteFile(filepath.Join(s.Dir, "before"), []byte("/^Subject: (.*)/ REPLACE Subject: $1, checked\n/^X-Checks-Strip:/ STRIP\n/^X-Filter-Adds:/ REPLACE X-Too-Early: yes\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(s.Dir, "after"), []byte("/^Subject: (.*)/ REPLACE Subject: $1, checked again\n/^X-Filter-Adds: (.*)/ REPLACE X-Filter-Added: $1\n/^X-By-Rule:/ PREPEND X-Checks-Prepend: yes\n"), 0o600))
	publish(names, s.run("dkim", "keygen", "example.com"))
	s.run("dkim", "rotate", "example.com")
	s.start()

	must(t, s.injectText("a@list.example", []string{"b@far.example"}, sealedBy(t, list, "example.com",
		"From: a@example.com\nTo: b@far.example\nSubject: hello\nX-Checks-Strip: 1\nX-Filter-Deletes: 1\nX-Rule-Strips: 1\nDate: Sun, 22 Nov 2026 04:00:00 +0000\nMessage-ID: <1@example.com>\n",
		"the secret\n.a dot\n")))
	testenv.Eventually(t, time.Minute, func() error {
		if n := len(tap.got()); n != 1 {
			return fmt.Errorf("%d messages arrived", n)
		}
		return nil
	})
	fields, body := partsOf(tap.got()[0])

	const wantBody = "Look twice.\r\n\r\nthe ******\r\n.a dot\r\nThe filter's last line\r\n"
	if body != wantBody {
		t.Errorf("body %q, want %q", body, wantBody)
	}
	var got []string
	for _, f := range fields {
		switch name := f.Name(); name {
		case "DKIM-Signature", "ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results", "Authentication-Results", "Received":
			got = append(got, name)
		default:
			got = append(got, string(f))
		}
	}
	want := []string{
		"ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results",
		"DKIM-Signature",
		"X-Checks-Prepend: yes", "X-By-Rule: yes",
		"Authentication-Results",
		"Received",
		"X-Filter-Inserts: 10 fields",
		"ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results",
		"From: a@example.com", "To: b@far.example", "Subject: [EXTERNAL] hello, checked, filtered, checked again",
		"Date: Sun, 22 Nov 2026 04:00:00 +0000", "Message-ID: <1@example.com>", "X-Filter-Added: 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("fields\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	resolver, err := dns.New(dns.Config{Servers: []string{names.Addr}})
	must(t, err)
	signatures, seals := dkim.NewVerifier(dkim.Config{}, resolver), arc.NewVerifier(arc.Config{}, resolver)
	for name, row := range map[string]struct {
		change   func(fields []mail.Field, body string) ([]mail.Field, string)
		verified bool
	}{
		"as it left": {func(f []mail.Field, b string) ([]mail.Field, string) { return f, b }, true},
		"another banner": {func(f []mail.Field, b string) ([]mail.Field, string) {
			return f, strings.Replace(b, "twice", "once", 1)
		}, false},
		"the filter undone": {func(f []mail.Field, b string) ([]mail.Field, string) {
			return f, strings.Replace(b, "******", "secret", 1)
		}, false},
		"the Subject as it came": {func(f []mail.Field, b string) ([]mail.Field, string) {
			f[slices.IndexFunc(f, func(f mail.Field) bool { return f.Is("Subject") })] = "Subject: hello"
			return f, b
		}, false},
	} {
		changed, text := row.change(slices.Clone(fields), body)
		verified, err := signatures.Verify(t.Context(), changed, strings.NewReader(text))
		must(t, err)
		if len(verified) != 1 || (verified[0].Result == dkim.Pass) != row.verified || verified[0].Signature.Domain != "example.com" {
			t.Errorf("%s: signatures %+v", name, verified)
		}
		chain, err := seals.Verify(t.Context(), changed, strings.NewReader(text))
		must(t, err)
		if (chain.Result == arc.Pass) != row.verified || row.verified && (len(chain.Sets) != 2 || chain.Sets[1].Domain != "example.com" || chain.OldestPass != 2) {
			t.Errorf("%s: chain %+v", name, chain)
		}
		if row.verified && !strings.Contains(chain.Sets[1].Results, "arc=pass") {
			t.Errorf("what the chain was when it came is not sealed: %q", chain.Sets[1].Results)
		}
	}
}

// partsOf divides a message as it was on the wire.
func partsOf(wire string) (fields []mail.Field, body string) {
	text := strings.TrimSuffix(strings.ReplaceAll("\r\n"+wire, "\r\n..", "\r\n."), ".\r\n")
	header, body, _ := strings.Cut(text[2:], "\r\n\r\n")
	for line := range strings.SplitSeq(header, "\r\n") {
		if line[0] == ' ' || line[0] == '\t' {
			fields[len(fields)-1] += mail.Field("\r\n" + line)
			continue
		}
		fields = append(fields, mail.Field(line))
	}
	return fields, body
}

// valueOf returns the value of a field among those a filter saw.
func valueOf(header []string, name string) string {
	for _, f := range header {
		if value, found := strings.CutPrefix(f, name+": "); found {
			return value
		}
	}
	return ""
}
