package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth/arc"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// signedBy returns a message with CRLF line ends and a DKIM signature on top.
func signedBy(t *testing.T, key *dkim.Key, header, body string) string {
	t.Helper()
	header, body = strings.ReplaceAll(header, "\n", "\r\n"), strings.ReplaceAll(body, "\n", "\r\n")
	var fields []mail.Field
	for line := range strings.SplitSeq(strings.TrimSuffix(header, "\r\n"), "\r\n") {
		fields = append(fields, mail.Field(line))
	}
	signer, err := dkim.NewSigner(dkim.Options{})
	must(t, err)
	signatures, err := signer.Sign(fields, strings.NewReader(body), "", key)
	must(t, err)
	return string(signatures[0]) + "\r\n" + header + "\r\n" + body
}

// partlySigned returns a message whose signature covers the first part of its
// body (l=).
func partlySigned(private ed25519.PrivateKey, covered, added string) string {
	const header = "From: a@signed.example\r\nSubject: hello\r\n"
	hash := sha256.Sum256([]byte(covered))
	signature := fmt.Sprintf("DKIM-Signature: v=1; a=ed25519-sha256; c=simple/simple; d=signed.example; s=s1; h=From:Subject; l=%d; bh=%s; b=",
		len(covered), base64.StdEncoding.EncodeToString(hash[:]))
	signed := sha256.Sum256([]byte(header + signature))
	return signature + base64.StdEncoding.EncodeToString(ed25519.Sign(private, signed[:])) + "\r\n" + header + "\r\n" + covered + added
}

// sealedBy returns a message with CRLF line ends that somebody passed on, and
// saw DMARC pass for.
func sealedBy(t *testing.T, key *dkim.Key, author, header, body string) string {
	t.Helper()
	header, body = strings.ReplaceAll(header, "\n", "\r\n"), strings.ReplaceAll(body, "\n", "\r\n")
	var fields []mail.Field
	for line := range strings.SplitSeq(strings.TrimSuffix(header, "\r\n"), "\r\n") {
		fields = append(fields, mail.Field(line))
	}
	sealer, err := arc.NewSealer(nil)
	must(t, err)
	set, err := sealer.Seal(fields, strings.NewReader(body), &arc.Chain{Result: arc.None}, key.Domain+"; dmarc=pass header.from="+author, key)
	must(t, err)
	var b strings.Builder
	for _, f := range set {
		b.WriteString(string(f) + "\r\n")
	}
	return b.String() + header + "\r\n" + body
}

// TestSenderAuthentication drives the whole of it as other servers would: SPF at
// the door, the field on top of what is delivered, DMARC's refusals, and the
// counts for reports, which outlast a restart.
func TestSenderAuthentication(t *testing.T) {
	t.Parallel()
	names := dnstest.New(t)
	public, private, err := ed25519.GenerateKey(nil)
	must(t, err)
	names.Add(
		`spf.example. 60 TXT "v=spf1 ip4:127.0.0.1 -all"`,
		`elsewhere.example. 60 TXT "v=spf1 ip4:192.0.2.1 -all exp=why.elsewhere.example"`,
		`why.elsewhere.example. 60 TXT "%{c} is none of %{d}"`,
		`quiet.example. 60 TXT "v=spf1 ?all"`,
		`_dmarc.spf.example. 60 TXT "v=DMARC1; p=reject; rua=mailto:reports@spf.example"`,
		`_dmarc.signed.example. 60 TXT "v=DMARC1; p=reject; rua=mailto:reports@elsewhere.example"`,
		`_dmarc.soft.example. 60 TXT "v=DMARC1; p=quarantine"`,
		`s1._domainkey.arc.example. 60 TXT "v=DKIM1; k=ed25519; p=`+base64.StdEncoding.EncodeToString(public)+`"`,
		`s1._domainkey.signed.example. 60 TXT "v=DKIM1; k=ed25519; p=`+base64.StdEncoding.EncodeToString(public)+`"`,
	)
	names.Fail("_dmarc.down.example", "TXT", "SERVFAIL")
	text := strings.NewReplacer("gateway {", `dns { servers = ["`+names.Addr+`"] }
gateway {
  policy "sender" {
    check_spf {}
  }
  policy "content" {
    authenticate {}
  }
  dmarc {
    honour          = "reject"
    trusted_sealers = ["arc.example"]
    reports {
      organization = "Example Ltd"
      contact      = "postmaster@example.com"
    }
  }`).Replace(standard)
	s := newSite(t, text, nil).start()
	key, err := dkim.NewKey("signed.example", "s1", private)
	must(t, err)
	sealer, err := dkim.NewKey("arc.example", "s1", private)
	must(t, err)
	to := []string{"alice@example.com"}
	header := func(from string) string {
		return "From: " + from + "\nSubject: hello\nAuthentication-Results: mail.example.com; dmarc=pass header.from=bank.example\n"
	}
	delivered := 0
	for _, row := range []struct {
		name, from, text string
		refusal          string
		field            string
	}{
		{"SPF passes and is the author's", "a@spf.example", header("a@spf.example") + "\nbody\n", "",
			"spf=pass smtp.mailfrom=spf.example; dkim=none; dmarc=pass header.from=spf.example policy.dmarc=none"},
		{"SPF fails", "a@elsewhere.example", header("a@spf.example") + "\nbody\n",
			"550: <a@elsewhere.example>: Sender address rejected: 127.0.0.1 is not allowed to send mail of elsewhere.example (SPF fail); elsewhere.example explains: 127.0.0.1 is none of elsewhere.example", ""},
		{"another's name in From", "a@quiet.example", header("a@spf.example") + "\nbody\n",
			"550: message from spf.example refused by the DMARC policy of spf.example", ""},
		{"a signature makes up for SPF", "a@quiet.example", signedBy(t, key, header("a@signed.example"), "body\n"), "",
			"spf=neutral smtp.mailfrom=quiet.example; dkim=pass"},
		{"a signature that was changed", "a@quiet.example", strings.Replace(signedBy(t, key, header("a@signed.example"), "body\n"), "body", "b0dy", 1),
			"550: message from signed.example refused by the DMARC policy of signed.example", ""},
		{"a signature of the whole body", "a@quiet.example", partlySigned(private, "body\r\n", ""), "", "dkim=pass"},
		{"a signature of the beginning", "a@quiet.example", partlySigned(private, "body\r\n", "buy\r\n"),
			"550: message from signed.example refused by the DMARC policy of signed.example", ""},
		{"passed on by somebody believed", "a@quiet.example", sealedBy(t, sealer, "spf.example", header("a@spf.example"), "body\n"), "",
			"dmarc=fail header.from=spf.example policy.dmarc=none"},
		{"passed on by a stranger", "a@quiet.example", sealedBy(t, key, "spf.example", header("a@spf.example"), "body\n"),
			"550: message from spf.example refused by the DMARC policy of spf.example", ""},
		{"quarantine", "a@quiet.example", header("a@soft.example") + "\nbody\n", "", "dmarc=fail header.from=soft.example policy.dmarc=quarantine"},
		{"the DNS is down", "a@quiet.example", header("a@down.example") + "\nbody\n", "", "dmarc=temperror header.from=down.example"},
	} {
		err := s.injectText(row.from, to, row.text)
		if row.refusal != "" {
			if err == nil || !strings.Contains(err.Error(), row.refusal) {
				t.Errorf("%s: %v, want %s", row.name, err, row.refusal)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		delivered++
		s.waitFor("alice", "hello", delivered)
		got := s.message(t, "alice", uint32(delivered))
		unfolded := strings.ReplaceAll(got, "\r\n\t", " ")
		fields := slices.DeleteFunc(strings.Split(unfolded, "\r\n"), func(line string) bool { return !strings.HasPrefix(line, "Authentication-Results:") })
		if len(fields) != 1 || !strings.HasPrefix(fields[0], "Authentication-Results: mail.example.com; iprev=") || !strings.Contains(fields[0], row.field) {
			t.Errorf("%s: %q", row.name, fields)
		}
		if junk := strings.Contains(got, "X-Spam-Flag: YES\r\n"); junk != (row.name == "quarantine") {
			t.Errorf("%s: junk %v", row.name, junk)
		}
	}
	s.proc.Stop()
	s.start()
	testenv.Eventually(t, time.Minute, func() error {
		return holds(s.run("dmarc", "list", "--json"), `"domain":"spf.example"`, `"messages":4,"failed":3`, `"domain":"signed.example"`)
	})
	if err := holds(s.run("dmarc", "show", "spf.example"), "<org_name>Example Ltd</org_name>", "<source_ip>127.0.0.1</source_ip>", "<disposition>reject</disposition>", "<spf>pass</spf>"); err != nil {
		t.Error(err)
	}
	if err := holds(s.run("dmarc", "send", "spf.example"), "no report on spf.example waits to be sent"); err != nil {
		t.Error(err)
	}
}

// TestDMARCReportsAreOff: without a word in the configuration nobody reports.
func TestDMARCReportsAreOff(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	out, err := exec.Command(program, "dmarc", "list", "-c", s.Config).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "reports { ... }") {
		t.Errorf("%v: %s", err, out)
	}
}
