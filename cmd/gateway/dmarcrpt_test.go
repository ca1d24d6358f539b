package main

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/testdata/ldif"
)

// TestDMARCReportIsSent follows mail that fails DMARC to the report its domain
// gets: counted, of a day that has ended, signed, sent by the queue, and gone
// from the list.
func TestDMARCReportIsSent(t *testing.T) {
	t.Parallel()
	outside, names := startOutside(t), dnstest.New(t)
	names.Add(
		`quiet.example. 60 TXT "v=spf1 ?all"`,
		`_dmarc.asks.example. 60 TXT "v=DMARC1; p=quarantine; rua=mailto:reports@asks.example,mailto:spy@victim.example"`,
	)
	s := newSite(t, strings.NewReplacer(`"127.0.0.1:9"`, `"`+outside.Address+`"`, "gateway {", `dns { servers = ["`+names.Addr+`"] }
gateway {
  policy "content" {
    authenticate {}
  }
  dmarc {
    reports {
      organization = "Example Ltd"
      contact      = "postmaster@example.com"
    }
  }`).Replace(standard), nil)
	publish(names, s.run("dkim", "keygen", "example.com"))
	s.run("dkim", "rotate", "example.com")
	s.start()
	must(t, s.injectText("a@quiet.example", []string{"alice@example.com"}, "From: boss@asks.example\nSubject: forged\n\nbody\n"))
	s.waitFor("alice", "forged", 1)
	must(t, holds(s.run("dmarc", "send", "asks.example"), "no report on asks.example waits to be sent"))
	s.proc.Stop()
	dayEarlier(t, filepath.Join(s.Dir, "data"))
	s.start()
	s.run("dmarc", "send", "asks.example")
	var report string
	testenv.Eventually(t, time.Minute, func() error {
		for _, m := range outside.got() {
			if strings.Contains(m.Text, "Report Domain: asks.example") {
				report = m.Text
				return nil
			}
		}
		return fmt.Errorf("no report among %d messages", len(outside.got()))
	})
	file := filepath.Join(s.Dir, "report.eml")
	must(t, os.WriteFile(file, []byte(report), 0o600))
	told(t, s.run("dkim", "verify", file), "signature 1: pass", "example.com")
	told(t, report, "From: postmaster@example.com", "To: reports@asks.example", "Auto-Submitted: auto-generated")
	told(t, unpacked(t, report), "<org_name>Example Ltd</org_name>", "<domain>asks.example</domain>", "<source_ip>127.0.0.1</source_ip>", "<count>1</count>",
		"<header_from>asks.example</header_from>", "<disposition>none</disposition>")
	told(t, s.run("dmarc", "list"), "Nothing was counted")
	for _, m := range outside.got() {
		if strings.Contains(m.Text, "spy@victim.example") {
			t.Errorf("who did not ask gets a report:\n%s", m.Text)
		}
	}
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"far@elsewhere.example"}, "still serving"))
}

// dayEarlier has everything that a stopped server counted be of the day before.
func dayEarlier(t *testing.T, data string) {
	t.Helper()
	change(t, data, "queue", func(v store.Snapshot, b *store.Batch) {
		for _, pair := range under(t, v, "d") {
			key := bytes.Clone(pair.Key)
			binary.BigEndian.PutUint32(key[1:], binary.BigEndian.Uint32(key[1:])-1)
			b.Delete(pair.Key)
			b.Put(key, pair.Value)
		}
	})
}

// unpacked returns the XML in a report.
func unpacked(t *testing.T, report string) string {
	t.Helper()
	_, part, _ := strings.Cut(strings.ReplaceAll(report, "\r\n", "\n"), "application/gzip")
	_, part, _ = strings.Cut(part, "\n\n")
	part, _, _ = strings.Cut(part, "\n--")
	packed, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(strings.TrimSpace(part), "\n", ""))
	must(t, err)
	z, err := gzip.NewReader(bytes.NewReader(packed))
	must(t, err)
	text, err := io.ReadAll(z)
	must(t, err)
	return string(text)
}
