package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	netmail "net/mail"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
)

var update = flag.Bool("update", os.Getenv("UPDATE_GOLDEN") == "1", "rewrite golden files")

// attached returns the report in a message, and what its gzip holds.
func attached(t *testing.T, text string) (message *netmail.Message, filename string, report []byte) {
	t.Helper()
	message, err := netmail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "tlsrpt" {
		t.Fatalf("Content-Type %q: %v", message.Header.Get("Content-Type"), err)
	}
	parts := multipart.NewReader(message.Body, params["boundary"])
	if first, err := parts.NextPart(); err != nil || !strings.HasPrefix(first.Header.Get("Content-Type"), "text/plain") {
		t.Fatalf("first part: %v", err)
	}
	second, err := parts.NextPart()
	if err != nil || second.Header.Get("Content-Type") != "application/tlsrpt+gzip" {
		t.Fatalf("second part: %v", err)
	}
	return message, second.FileName(), unpack(t, base64.NewDecoder(base64.StdEncoding, second))
}

func unpack(t *testing.T, r io.Reader) []byte {
	t.Helper()
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestReportByMail: what was counted on a day, before and after a restart, is
// one report on the next, within four hours, and is then forgotten.
func TestReportByMail(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *site) {
		for range 3 {
			s.Note(session("example.com", ""))
		}
		s.Note(session("example.com", tlspolicy.CertificateExpired))
		time.Sleep(2 * dailyreport.Every)
		s.Note(session("example.com", tlspolicy.CertificateExpired))
		s.restart() // what was not flushed yet is written on the way out
		s.Note(session("example.com", ""))
		s.Note(tlsaSession("example.com", tlspolicy.NoSTARTTLS))
		time.Sleep(10 * time.Hour)
		s.restart()
		if n := len(s.sent()); n != 0 {
			t.Fatalf("%d reports on the same day", n)
		}
		time.Sleep(14*time.Hour + dailyreport.MaxDelay + time.Minute)
		s.restart()
		time.Sleep(48 * time.Hour)
		letters := s.sent()
		if len(letters) != 1 {
			t.Fatalf("%d reports, want one", len(letters))
		}
		if late := letters[0].at.Sub(dailyreport.DayOf(letters[0].at).Start()); late < dailyreport.MinDelay || late > dailyreport.MaxDelay+dailyreport.Every {
			t.Errorf("sent %s after the day's end", late)
		}
		env := letters[0].envelope
		if !env.TLSOptional || env.ReversePath != config.From || env.Recipients[0].Notify != mail.NotifyNever || env.Recipients[0].Address.String() != "reports@example.com" {
			t.Errorf("envelope %+v", env)
		}
		message, filename, report := attached(t, letters[0].text)
		if want := "gateway.example.net!example.com!946684800!946771199.json.gz"; filename != want {
			t.Errorf("file name %q, want %q", filename, want)
		}
		for name, want := range map[string]string{
			"TLS-Report-Domain": "example.com", "TLS-Report-Submitter": "gateway.example.net", "TLS-Required": "No",
			"From": "tlsrpt@example.net", "To": "reports@example.com", "Auto-Submitted": "auto-generated",
			"Subject":    "Report Domain: example.com Submitter: gateway.example.net Report-ID: <20000101.example.com@gateway.example.net>",
			"Message-Id": "<tlsrpt.20000101.example.com@gateway.example.net>",
		} {
			if got := message.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		for line := range strings.Lines(letters[0].text) {
			if !strings.HasSuffix(line, "\r\n") || len(line) > 200 {
				t.Errorf("line %q", line)
			}
		}
		golden(t, "testdata/report.json", report)
		if left := s.entries(); len(left) != 0 {
			t.Errorf("still kept: %+v", left)
		}
		if got := s.audit.results(); !slices.Equal(got, []string{"tls-report sent"}) {
			t.Errorf("audit %q", got)
		}
	})
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %v, got\n%s", file, err, got)
	}
}

// TestWhoWantsReports: nothing is kept about domains that ask for nothing, and
// nothing is lost of those whose DNS does not answer.
func TestWhoWantsReports(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *site) {
		s.Note(session("example.com", ""))
		s.Note(session("example.org", ""))
		if got := s.entries(); len(got) != 1 || got[0].Domain != "example.com" || got[0].Succeeded != 1 {
			t.Errorf("kept: %+v", got)
		}
		s.set(func() { s.silent = true })
		s.Note(session("example.info", tlspolicy.NoSTARTTLS))
		if got := s.entries(); len(got) != 2 || got[1].Domain != "example.info" || got[1].Failed != 1 {
			t.Errorf("kept while the DNS is away: %+v", got)
		}
		// It stays away beyond the first attempt, and then asks for nothing.
		time.Sleep(time.Until(s.Reporter.cfg.ReportTime(dailyreport.DayOf(time.Now())).Add(2 * time.Minute)))
		if got := s.entries(); len(got) != 2 || got[0].Attempts != 1 || !strings.Contains(got[0].Last, "timeout") {
			t.Errorf("kept while nobody knows: %+v", got)
		}
		s.set(func() { s.silent = false })
		time.Sleep(time.Hour)
		if got := s.sent(); len(got) != 1 || len(s.entries()) != 0 {
			t.Errorf("sent %+v, kept %+v", got, s.entries())
		}
	})
}

// TestAskedOnce: a domain's wish is looked up once a day, not for each session.
func TestAskedOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *site) {
		for range 10 {
			s.Note(session("example.com", ""))
			s.Note(session("example.org", ""))
			time.Sleep(dailyreport.Every)
		}
		synctest.Wait()
		s.set(func() {
			if s.asked != 2 {
				t.Errorf("asked %d times", s.asked)
			}
		})
	})
}

// TestRetries: a report that is not taken is tried again, over a restart, and
// given up in the end.
func TestRetries(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		failures time.Duration // how long the queue takes nothing
		sent     int
		results  []string // the last
	}{
		{"for a while", time.Hour, 1, []string{"tls-report sent"}},
		{"for good", 100 * time.Hour, 0, []string{"tls-report deferred", "tls-report given up"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, s *site) {
				s.set(func() { s.refuse = errBusy })
				s.Note(session("example.com", ""))
				time.Sleep(24*time.Hour + dailyreport.MaxDelay + time.Minute)
				s.restart()
				time.Sleep(row.failures)
				if row.sent > 0 {
					if e := s.entries(); len(e) != 1 || e[0].Attempts < 2 || !strings.Contains(e[0].Last, "the disk is away") {
						t.Errorf("while it fails: %+v", e)
					}
				}
				s.set(func() { s.refuse = nil })
				time.Sleep(24 * time.Hour)
				results := s.audit.results()
				if len(s.sent()) != row.sent || len(s.entries()) != 0 || !slices.Equal(results[len(results)-len(row.results):], row.results) {
					t.Errorf("sent %d, kept %+v, audit %q", len(s.sent()), s.entries(), results)
				}
				if len(results) > dailyreport.MaxAttempts {
					t.Errorf("%d attempts", len(results))
				}
			})
		})
	}
}

// TestFullDisk: what cannot be written is written later.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *site) {
		s.kv.fill(true)
		s.Note(session("example.com", ""))
		time.Sleep(3 * dailyreport.Every)
		s.Note(session("example.com", tlspolicy.NoSTARTTLS))
		time.Sleep(3 * dailyreport.Every)
		s.kv.fill(false)
		if got := s.entries(); len(got) != 1 || got[0].Succeeded != 1 || got[0].Failed != 1 {
			t.Errorf("kept %+v", got)
		}
	})
}

// TestOperators: reports are listed, shown and sent on demand.
func TestOperators(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *site) {
		s.set(func() { s.records["example.org"] = "v=TLSRPTv1;rua=mailto:x@example.org" })
		s.Note(session("example.com", tlspolicy.CertificateMismatch))
		s.Note(session("example.org", ""))
		shown, err := s.Show(t.Context(), "Example.Com")
		if err != nil || len(shown) != 1 || !strings.Contains(shown[0], `"certificate-host-mismatch"`) {
			t.Errorf("shown %q, %v", shown, err)
		}
		if n, err := s.Reporter.Send(t.Context(), "example.com"); n != 0 || err != nil {
			t.Errorf("a day that has not ended: %d sent, %v", n, err)
		}
		time.Sleep(24 * time.Hour) // its time has not come yet
		if e := s.entries(); len(e) != 2 || !e[0].Due.After(time.Now()) {
			t.Fatalf("kept %+v", e)
		}
		s.set(func() { s.refuse = errBusy })
		if n, err := s.Reporter.Send(t.Context(), "example.com"); n != 1 || err == nil || !strings.Contains(err.Error(), "the disk is away") {
			t.Errorf("%d sent, %v", n, err)
		}
		s.set(func() { s.refuse = nil })
		if n, err := s.Reporter.Send(t.Context(), "EXAMPLE.com"); n != 1 || err != nil || len(s.sent()) != 1 {
			t.Errorf("%d sent, %v", n, err)
		}
		if e := s.entries(); len(e) != 1 || e[0].Domain != "example.org" {
			t.Errorf("kept %+v", e)
		}
		s.end()
		if _, err := s.Show(t.Context(), "example.org"); err == nil || !strings.Contains(err.Error(), "stopping") {
			t.Errorf("after the end: %v", err)
		}
		s.start()
	})
}

// TestBounds: strangers cannot make it keep more than there is room for.
func TestBounds(t *testing.T) {
	t.Parallel()
	nasty := strings.Repeat("\"\\\x00é<", 200)
	c := new(count)
	for i := range 500 {
		s := session("example.com", tlspolicy.ValidationFailure)
		s.Host, s.Helo, s.Detail = fmt.Sprint(i, nasty), nasty, nasty
		s.Published.Text = slices.Repeat([]string{nasty}, 50)
		s.Published.MX = slices.Repeat([]string{nasty}, 50)
		if i%100 == 0 {
			s.Published.Type = tlspolicy.PolicyType(fmt.Sprint("type", i))
		}
		c.add(s)
	}
	value, err := c.encode()
	if err != nil || len(value) > 64<<10 {
		t.Fatalf("a record of %d octets, %v", len(value), err)
	}
	again, err := decode(value)
	if err != nil {
		t.Fatal(err)
	}
	if rewritten, err := again.encode(); err != nil || !bytes.Equal(rewritten, value) {
		t.Errorf("read back as another: %v", err)
	}
	details := 0
	for _, p := range c.Policies {
		details += len(p.Details)
		if p.Failed < int64(len(p.Details)) {
			t.Errorf("%d failures with %d details", p.Failed, len(p.Details))
		}
	}
	if len(c.Policies) > maxPolicies || details > maxDetails {
		t.Errorf("%d policies, %d details", len(c.Policies), details)
	}

	inBubble(t, func(t *testing.T, s *site) {
		for i := range maxOpen + 100 {
			s.Note(session(fmt.Sprintf("d%d.example", i), ""))
		}
		s.mu.Lock()
		s.silent = true // all are kept
		s.mu.Unlock()
		s.Reporter.mu.Lock()
		open := len(s.open)
		s.Reporter.mu.Unlock()
		if open != maxOpen {
			t.Errorf("%d domains in memory", open)
		}
		for _, bad := range []string{"", "a b.example", "x\r\ny.example", "[192.0.2.1]", "localhost"} {
			s.Note(session(bad, ""))
		}
		if n := len(s.entries()); n != maxOpen {
			t.Errorf("%d domains kept", n)
		}
		for round := range maxDomains/maxOpen + 1 {
			for i := range maxOpen {
				s.Note(session(fmt.Sprintf("r%d-%d.example", round, i), ""))
			}
			time.Sleep(dailyreport.Every + time.Second)
		}
		if n := len(s.entries()); n != maxDomains {
			t.Errorf("%d domains kept in a day", n)
		}
	})
}

func TestRecord(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		texts string // separated by "|"
		want  string
	}{
		{"v=TLSRPTv1;rua=mailto:reports@example.com", "mailto:reports@example.com"},
		{"v=TLSRPTv1; rua=https://reports.example.com/v1/tlsrpt?x=1#y", "https://reports.example.com/v1/tlsrpt?x=1"},
		{"v=TLSRPTv1 ; ext=1; rua = mailto:a@example.com , https://example.com/ ;", "mailto:a@example.com https://example.com/"},
		{"v=TLSRPTv1;rua=mailto:%22a%2Cb%22@example.com", `mailto:"a,b"@example.com`},
		{"v=spf1 -all|v=TLSRPTv1;rua=mailto:a@example.com", "mailto:a@example.com"},
		{"v=TLSRPTv1;rua=mailto:a@example.com|v=TLSRPTv1;rua=mailto:b@example.com", ""},
		{"v=TLSRPTv1;rua=http://example.com/,ftp://example.com,mailto:,mailto:x,https:///x,https://u:p@example.com/", ""},
		{"v=TLSRPTv1;rua=mailto:a@x.example,mailto:b@x.example,mailto:c@x.example,mailto:d@x.example", "mailto:a@x.example mailto:b@x.example mailto:c@x.example"},
		{"v=TLSRPTv1;rua=mailto:a@example.com%0d%0aBcc:b@example.com", ""},
		{"v=TLSRPTv1;rua=mailto:j%C3%BCrgen@example.com", ""},
		{"v=TLSRPTv2;rua=mailto:a@example.com", ""},
		{"rua=mailto:a@example.com;v=TLSRPTv1", ""},
		{"v=TLSRPTv1;", ""},
		{"", ""},
	} {
		var got []string
		for _, r := range parseRecord(strings.Split(row.texts, "|")) {
			got = append(got, r.String())
		}
		if strings.Join(got, " ") != row.want {
			t.Errorf("%q: got %q, want %q", row.texts, got, row.want)
		}
	}
}

// FuzzRecord holds that a receiver is one that can be written into a header or
// a request.
func FuzzRecord(f *testing.F) {
	f.Add("v=TLSRPTv1;rua=mailto:reports@example.com,https://example.com/x")
	f.Add("v=TLSRPTv1;rua=mailto:%22a%20b%22@example.com?subject=x")
	f.Fuzz(func(t *testing.T, text string) {
		all := parseRecord([]string{text})
		if len(all) > maxReceivers {
			t.Fatalf("%d receivers", len(all))
		}
		for _, r := range all {
			if strings.ContainsAny(r.Mail.String()+r.URL, "\r\n\x00") || r.URL == "" && r.Mail.IsNull() || r.URL != "" && !strings.HasPrefix(strings.ToLower(r.URL), "https://") {
				t.Fatalf("%q: %+v", text, r)
			}
		}
	})
}

// FuzzStored holds that what is read can be written and reported on.
func FuzzStored(f *testing.F) {
	c := new(count)
	c.add(session("example.com", tlspolicy.NoSTARTTLS))
	value, _ := c.encode()
	f.Add(value)
	f.Add([]byte(`{"version":1,"policies":[null]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		c, err := decode(value)
		if err != nil {
			return
		}
		if _, err := c.encode(); err != nil {
			t.Fatal(err)
		}
		text, err := (&Reporter{cfg: config}).reportOf(subject{1, "example.com"}, c).json()
		if err != nil || !json.Valid(text) {
			t.Fatalf("%v: %s", err, text)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"no organization": func(c *Config) { c.Organization = "" },
		"no contact":      func(c *Config) { c.Contact = "" },
		"no sender":       func(c *Config) { c.From = mail.Address{} },
		"no hostname":     func(c *Config) { c.Hostname = "" },
		"a line end":      func(c *Config) { c.Organization = "x\ny" },
	} {
		cfg := config
		change(&cfg)
		if _, err := New(cfg, Deps{Resolver: &dns.Resolver{}}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
