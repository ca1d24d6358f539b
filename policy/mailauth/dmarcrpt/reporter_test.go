package dmarcrpt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/policy/mailauth"
	"github.com/postern-mail/postern/policy/mailauth/dmarc"
)

const wantReport = `<?xml version="1.0" encoding="UTF-8"?>
<feedback>
  <version>1.0</version>
  <report_metadata>
    <org_name>Example &lt;Ltd&gt; &amp; Sons</org_name>
    <email>postmaster@example.net</email>
    <report_id>20000101.example.com@gateway.example.net</report_id>
    <date_range>
      <begin>946684800</begin>
      <end>946771199</end>
    </date_range>
  </report_metadata>
  <policy_published>
    <domain>example.com</domain>
    <adkim>s</adkim>
    <aspf>r</aspf>
    <p>reject</p>
    <sp>quarantine</sp>
    <pct>50</pct>
    <fo>1:d</fo>
  </policy_published>
  <record>
    <row>
      <source_ip>2001:db8::1</source_ip>
      <count>3</count>
      <policy_evaluated>
        <disposition>none</disposition>
        <dkim>fail</dkim>
        <spf>fail</spf>
        <reason>
          <type>trusted_forwarder</type>
          <comment>lists.example &lt;?&gt;</comment>
        </reason>
      </policy_evaluated>
    </row>
    <identifiers>
      <envelope_from>bounces.other.example</envelope_from>
      <header_from>sub.example.com</header_from>
    </identifiers>
    <auth_results>
      <dkim>
        <domain>lists.example</domain>
        <selector>s1</selector>
        <result>pass</result>
      </dkim>
      <dkim>
        <domain>sub.example.com</domain>
        <result>fail</result>
      </dkim>
      <spf>
        <domain>bounces.other.example</domain>
        <scope>mfrom</scope>
        <result>softfail</result>
      </spf>
    </auth_results>
  </record>
</feedback>
`

// full is an evaluation with all that can be told.
func full(t *testing.T, s *site) mailauth.Evaluation {
	e := evaluation(t, s.txt["_dmarc.example.com"], "example.com", "2001:db8::1")
	e.Answer.Author = "sub.example.com"
	e.Applied, e.Override = dmarc.PolicyNone, mailauth.Override{Type: "trusted_forwarder", Comment: "lists.example <\x00>"}
	e.DKIM = []dmarc.Identifier{{Domain: "lists.example", Result: "pass", Selector: "s1"}, {Domain: "sub.example.com", Result: "fail"}}
	return e
}

// TestReport follows messages to the report about them, over a restart.
func TestReport(t *testing.T) {
	t.Parallel()
	var report string
	inBubble(t, func(t *testing.T, s *site) {
		s.Note(full(t, s))
		s.Note(full(t, s))
		s.restart()
		s.Note(full(t, s))
		if all := s.entries(); len(all) != 1 || all[0].Messages != 3 || all[0].Failed != 3 || all[0].Domain != "example.com" || all[0].Day != "2000-01-01" {
			t.Fatalf("%+v", all)
		}
		if shown, err := s.Show(t.Context(), "Example.COM"); err != nil || len(shown) != 1 || shown[0] != wantReport {
			t.Errorf("shown %q, %v", shown, err)
		}
		if n, err := s.Reporter.Send(t.Context(), "example.com"); n != 0 || err != nil {
			t.Errorf("%d reports sent before the day is over, %v", n, err)
		}
		s.untilReports()
		letters := s.sent()
		if len(letters) != 1 {
			t.Fatalf("%d reports", len(letters))
		}
		e := letters[0].envelope
		if e.ReversePath.String() != "dmarc@example.net" || len(e.Recipients) != 1 || e.Recipients[0].Address.String() != "reports@example.com" {
			t.Errorf("envelope %+v", e)
		}
		message, filename, text := attached(t, letters[0].text)
		if subject := message.Header.Get("Subject"); subject != "Report Domain: example.com Submitter: gateway.example.net Report-ID: <20000101.example.com@gateway.example.net>" {
			t.Errorf("subject %q", subject)
		}
		if filename != "gateway.example.net!example.com!946684800!946771199.xml.gz" {
			t.Errorf("file %q", filename)
		}
		if text != wantReport {
			t.Errorf("got\n%s\nwant\n%s", text, wantReport)
		}
		for line := range strings.SplitSeq(letters[0].text, "\r\n") {
			if len(line) > 200 || strings.ContainsAny(line, "\r\n") {
				t.Errorf("line %q", line)
			}
		}
		if d := letters[0].at.Sub(time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC)); d < dailyreport.MinDelay || d > dailyreport.MaxDelay+2*dailyreport.Every {
			t.Errorf("sent %v after the end of the day", d)
		}
		if left := s.entries(); len(left) != 0 || !slices.Equal(s.events, []string{"dmarc-report sent"}) {
			t.Errorf("left %+v, audit %v", left, s.events)
		}
		report = text
	})
	validate(t, report)
}

// validate holds a report against the schema of appendix C.
func validate(t *testing.T, report string) {
	t.Helper()
	lint := testenv.Program(t, "xmllint")
	file := filepath.Join(t.TempDir(), "report.xml")
	if err := os.WriteFile(file, []byte(report), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Run(t, lint, "--noout", "--schema", "testdata/feedback.xsd", file)
}

// TestReceivers: who gets a report, and what becomes of it where something is in
// the way.
func TestReceivers(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, txt string
		prepare   func(s *site)
		to        string
		audit     string
		left      int
	}{
		{"none wanted", "v=DMARC1; p=none", nil, "", "", 0},
		{"not wanted any more", "v=DMARC1; p=none; rua=mailto:a@x.example", func(s *site) { s.txt["_dmarc.x.example"] = "v=DMARC1; p=none" }, "", "", 0},
		{"no record any more", "v=DMARC1; p=none; rua=mailto:a@x.example", func(s *site) { delete(s.txt, "_dmarc.x.example") }, "", "", 0},
		{"several", "v=DMARC1; p=none; rua=mailto:a@x.example,mailto:b@sub.x.example", nil, "a@x.example b@sub.x.example", "dmarc-report sent, dmarc-report sent", 0},
		{"another organization that wants", "v=DMARC1; p=none; rua=mailto:a@y.example", func(s *site) { s.txt["x.example._report._dmarc.y.example"] = "v=DMARC1" }, "a@y.example", "dmarc-report sent", 0},
		{"another that does not", "v=DMARC1; p=none; rua=mailto:a@y.example", nil, "", "", 0},
		{"an excluded receiver", "v=DMARC1; p=none; rua=mailto:a@unwanted.example", func(s *site) { s.txt["x.example._report._dmarc.unwanted.example"] = "v=DMARC1" }, "", "", 0},
		{"DNS down", "v=DMARC1; p=none; rua=mailto:a@x.example", func(s *site) { s.silent = true }, "", "dmarc-report deferred", 1},
		{"queue down", "v=DMARC1; p=none; rua=mailto:a@x.example", func(s *site) { s.refuse = errors.New("the disk is away") }, "", "dmarc-report deferred", 1},
		{"large enough", "v=DMARC1; p=none; rua=mailto:a@x.example!10m", nil, "a@x.example", "dmarc-report sent", 0},
		{"too large", "v=DMARC1; p=none; rua=mailto:a@x.example!100", nil, "a@x.example", "dmarc-report too large", 0},
	} {
		inBubble(t, func(t *testing.T, s *site) {
			s.txt["_dmarc.x.example"] = row.txt
			s.note("x.example", "192.0.2.1")
			s.entries() // writes
			if row.prepare != nil {
				s.set(func() { row.prepare(s) })
			}
			s.untilReports()
			var to []string
			for _, l := range s.sent() {
				to = append(to, l.envelope.Recipients[0].Address.String())
				if large := strings.Contains(l.text, "Report-Size: "); large != (row.name == "too large") {
					t.Errorf("%s: sent\n%s", row.name, l.text)
				}
			}
			if got := strings.Join(to, " "); got != row.to {
				t.Errorf("%s: to %q, want %q", row.name, got, row.to)
			}
			s.set(func() {})
			if got := strings.Join(s.events, ", "); got != row.audit {
				t.Errorf("%s: audit %q, want %q", row.name, got, row.audit)
			}
			if left := s.entries(); len(left) != row.left {
				t.Errorf("%s: left %+v", row.name, left)
			}
		})
	}
}

// TestRetries: a report that cannot be sent is tried for a day or so, at the
// addresses that have not got it, and then given up.
func TestRetries(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *site) {
		s.refuse = errors.New("the disk is away")
		s.note("example.com", "192.0.2.1")
		s.untilReports()
		if all := s.entries(); len(all) != 1 || all[0].Attempts != 1 || !strings.Contains(all[0].Last, "disk") {
			t.Fatalf("%+v", all)
		}
		s.restart()
		s.set(func() { s.refuse = nil })
		time.Sleep(dailyreport.FirstRetry + 2*dailyreport.Every)
		if len(s.sent()) != 1 || len(s.entries()) != 0 {
			t.Errorf("%d sent, left %+v", len(s.sent()), s.entries())
		}
		s.set(func() { s.refuse = errors.New("the disk is away") })
		s.note("example.com", "192.0.2.1")
		s.untilReports()
		time.Sleep(40 * time.Hour)
		if left := s.entries(); len(left) != 0 || s.events[len(s.events)-1] != "dmarc-report given up" {
			t.Errorf("left %+v, audit %v", left, s.events)
		}
	})
}

// TestExcluded: who is excluded is not even counted.
func TestExcluded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *site) {
		s.txt["_dmarc.quiet.example"] = "v=DMARC1; p=none; rua=mailto:a@quiet.example"
		s.note("quiet.example", "192.0.2.1")
		if all := s.entries(); len(all) != 0 {
			t.Errorf("%+v", all)
		}
	})
}

// TestFullDisk: counts wait in memory while the disk has no room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *site) {
		s.note("example.com", "192.0.2.1")
		s.kv.fill(true)
		time.Sleep(3 * dailyreport.Every)
		s.note("example.com", "192.0.2.1")
		time.Sleep(3 * dailyreport.Every)
		s.kv.fill(false)
		if all := s.entries(); len(all) != 1 || all[0].Messages != 2 {
			t.Errorf("%+v", all)
		}
	})
}

// TestManyClients: a domain with very many clients has a bounded count, and its
// report is one that can be sent.
func TestManyClients(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *site) {
		// Four of the shards are enough to see what one has room for.
		e, noted := full(t, s), 0
		for n := range 30000 {
			e.Client = netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
			if rowOf(e).shard() < 4 {
				s.Note(e)
				noted++
			}
		}
		all := s.entries()
		if len(all) != 1 || all[0].Messages < 4*100 || all[0].Messages > 4*300 || noted < 4*200 {
			t.Fatalf("%d noted, %+v", noted, all)
		}
		s.untilReports()
		letters := s.sent()
		if len(letters) != 1 || len(letters[0].text) > 10<<20 {
			t.Fatalf("%d reports", len(letters))
		}
		_, _, text := attached(t, letters[0].text)
		var read struct {
			Records []struct {
				N int64 `xml:"row>count"`
			} `xml:"record"`
		}
		if err := xml.Unmarshal([]byte(text), &read); err != nil || int64(len(read.Records)) != all[0].Messages {
			t.Errorf("%d records, %v", len(read.Records), err)
		}
	})
}

// TestManyDomains: reports go out at a bounded rate.
func TestManyDomains(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *site) {
		const domains = 3*maxRound + 5
		for n := range domains {
			domain := fmt.Sprintf("d%d.example", n)
			s.txt["_dmarc."+domain] = "v=DMARC1; p=none; rua=mailto:a@" + domain
			s.note(domain, "192.0.2.1")
		}
		s.untilReports()
		time.Sleep(10 * dailyreport.Every)
		minutes := map[int64]int{}
		for _, l := range s.sent() {
			minutes[l.at.Unix()/60]++
		}
		if len(s.sent()) != domains || len(minutes) < 4 {
			t.Errorf("%d reports in %v", len(s.sent()), minutes)
		}
		for minute, n := range minutes {
			if n > maxRound {
				t.Errorf("%d reports in minute %d", n, minute)
			}
		}
	})
}

func TestRecords(t *testing.T) {
	t.Parallel()
	for _, key := range [][]byte{nil, []byte("d"), []byte("d1234a"), []byte("x1234a\x00\x01"), []byte("d1234a\x01\x01")} {
		if _, _, err := parseKey(key); !errors.Is(err, errRecord) {
			t.Errorf("%q: %v", key, err)
		}
	}
	s := subject{7, "example.com"}
	if got, shard, err := parseKey(s.key(5)); got != s || shard != 5 || err != nil {
		t.Errorf("%v %d %v", got, shard, err)
	}
	if _, err := decodeRows([]byte(`{"version":2}`)); !errors.Is(err, errRecord) || !strings.Contains(err.Error(), "format 2") {
		t.Error(err)
	}
	if _, err := decodeRows([]byte(`{"version":1,"rows":[null]}`)); !errors.Is(err, errRecord) {
		t.Error(err)
	}
	if _, err := decodeHead([]byte(`{`)); !errors.Is(err, errRecord) {
		t.Error(err)
	}
}

func FuzzReport(f *testing.F) {
	f.Add("a.example", "b&<>\"'\x00", "s1", "pass", "comment")
	f.Fuzz(func(t *testing.T, author, from, selector, result, comment string) {
		r := rowOf(mailauth.Evaluation{
			Client: netip.MustParseAddr("192.0.2.1"), Answer: dmarc.Answer{Author: author}, From: from, Applied: dmarc.PolicyNone,
			Override: mailauth.Override{Type: "other", Comment: comment}, SPF: dmarc.Identifier{Domain: from, Result: result},
			DKIM: []dmarc.Identifier{{Domain: author, Selector: selector, Result: result}},
		})
		c := &rows{Rows: []*row{r}}
		value, _, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeRows(value)
		if err != nil || !again.Rows[0].same(r) {
			t.Fatalf("%s: %v", value, err)
		}
		text, err := xml.Marshal(r.record())
		if err != nil {
			t.Fatal(err)
		}
		var back record
		if err := xml.Unmarshal(text, &back); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	})
}
