package dmarcrpt

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	netmail "net/mail"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth"
	"github.com/postern-mail/postern/policy/mailauth/dmarc"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// site is what a Reporter stands in, with DNS and queue in memory.
type site struct {
	t   *testing.T
	kv  *fullStore
	cfg Config
	*Reporter

	mu      sync.Mutex
	txt     map[string]string
	silent  bool // the DNS does not answer
	refuse  error
	letters []letter
	events  []string
	end     func()
}

type letter struct {
	envelope mail.Envelope
	text     string
	at       time.Time
}

var standard = Config{
	Submitter: dailyreport.Submitter{
		Organization: "Example <Ltd> & Sons", Contact: "postmaster@example.net", From: mail.MustAddress("dmarc@example.net"),
		Hostname: "gateway.example.net",
	},
	Exclude: []string{"quiet.example", "unwanted.example"},
}

// inBubble runs a test on a site in synthetic time, which begins on 2000-01-01.
func inBubble(t *testing.T, test func(t *testing.T, s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &site{t: t, kv: &fullStore{Store: storetest.NewModel().Open()}, cfg: standard, txt: map[string]string{
			"_dmarc.example.com": "v=DMARC1; p=reject; sp=quarantine; adkim=s; pct=50; fo=1:d; rua=mailto:reports@example.com",
		}}
		s.start()
		defer func() { s.end() }()
		test(t, s)
	})
}

func (s *site) start() {
	s.t.Helper()
	r, err := New(s.cfg, Deps{Store: s.kv, Records: &dmarc.Checker{Resolver: s}, Mailer: s, Audit: s})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			s.t.Errorf("Run: %v", err)
		}
	})
	s.Reporter, s.end = r, func() { cancel(); running.Wait() }
}

func (s *site) restart() {
	s.t.Helper()
	s.end()
	s.start()
}

// TXT implements dmarc.Resolver.
func (s *site) TXT(_ context.Context, name string) (dns.Answer[string], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent {
		return dns.Answer[string]{}, errors.New("timeout")
	}
	if text, ok := s.txt[strings.TrimSuffix(name, ".")]; ok {
		return dns.Answer[string]{Records: []string{text}}, nil
	}
	return dns.Answer[string]{Outcome: dns.NXDomain}, nil
}

// MX implements dmarc.Resolver.
func (s *site) MX(context.Context, string) (dns.Answer[dns.MX], error) {
	return dns.Answer[dns.MX]{Outcome: dns.NoData}, nil
}

// Send implements Mailer.
func (s *site) Send(_ context.Context, e mail.Envelope, message []byte) (mail.QueueID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return "", s.refuse
	}
	s.letters = append(s.letters, letter{e, string(message), time.Now()})
	return "Q1", nil
}

// Record implements Auditor.
func (s *site) Record(e mail.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, string(e.Kind)+" "+e.Result)
}

func (s *site) sent() []letter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.letters
}

func (s *site) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// entries lists what is kept.
func (s *site) entries() (all []Entry) {
	s.t.Helper()
	if err := s.List(s.t.Context(), func(e Entry) error { all = append(all, e); return nil }); err != nil {
		s.t.Fatal(err)
	}
	return all
}

// note counts a message as the gateway does.
func (s *site) note(domain, client string) {
	s.t.Helper()
	s.Note(evaluation(s.t, s.txt["_dmarc."+domain], domain, client))
}

// evaluation is a message that fails.
func evaluation(t *testing.T, txt, domain, client string) mailauth.Evaluation {
	t.Helper()
	checker := dmarc.Checker{Resolver: &site{txt: map[string]string{"_dmarc." + domain: txt}}}
	spf := dmarc.Identifier{Domain: "bounces.other.example", Result: "softfail"}
	a := checker.Check(t.Context(), dmarc.Query{Authors: []string{domain}, SPF: spf})
	return mailauth.Evaluation{
		Time: time.Now(), Client: netip.MustParseAddr(client), Answer: a, Applied: a.Requested,
		From: "bounces.other.example", SPF: spf, SPFScope: "mfrom",
	}
}

// untilReports lets time pass until the reports of today are out.
func (s *site) untilReports() {
	time.Sleep(time.Until(s.Reporter.cfg.ReportTime(dailyreport.DayOf(time.Now())).Add(2 * dailyreport.Every)))
	synctest.Wait()
}

// fullStore is a store in memory whose disk may be full.
type fullStore struct {
	store.Store
	mu   sync.Mutex
	full bool
}

func (f *fullStore) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	f.mu.Lock()
	full := f.full
	f.mu.Unlock()
	if full {
		return store.Result{}, store.ErrFull
	}
	return f.Store.Commit(ctx, b)
}

func (f *fullStore) fill(full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = full
}

// attached returns the report in a message, and the name of its file.
func attached(t *testing.T, text string) (message *netmail.Message, filename, report string) {
	t.Helper()
	message, err := netmail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" {
		t.Fatalf("%s, %v", kind, err)
	}
	parts := multipart.NewReader(message.Body, params["boundary"])
	if _, err := parts.NextPart(); err != nil {
		t.Fatal(err)
	}
	part, err := parts.NextPart()
	if err != nil || part.Header.Get("Content-Type") != "application/gzip" {
		t.Fatalf("%v, %v", part, err)
	}
	encoded, err := io.ReadAll(part)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(encoded), "\r\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return message, part.FileName(), string(plain)
}
