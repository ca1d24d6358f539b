package signing

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/mailauth/arc"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
	"github.com/postern-mail/postern/table"
)

// paper is a Message in memory.
type paper struct {
	fields []mail.Field
	body   string
	broken bool // its disk
	ours   int
}

func letter(text string) *paper {
	fields, body := Split([]byte(strings.ReplaceAll(text, "\n", "\r\n")))
	return &paper{fields: fields, body: string(body)}
}

func (p *paper) Fields() []mail.Field { return p.fields }
func (p *paper) Ours() int            { return p.ours }
func (p *paper) BodyOctets() int64    { return int64(len(p.body)) }

func (p *paper) Body() io.ReadSeeker {
	if p.broken {
		return brokenDisk{iotest.ErrReader(errDisk)}
	}
	return strings.NewReader(p.body)
}

type brokenDisk struct{ io.Reader }

func (brokenDisk) Seek(int64, int) (int64, error) { return 0, errDisk }

var errDisk = errors.New("disk")

func (p *paper) Apply(e mail.Edit) error {
	p.fields = slices.Insert(p.fields, 0, mail.Field(e.PrependHeader))
	return nil
}

// apply does what the chain does.
func (p *paper) apply(t *testing.T, v mail.Verdict) {
	t.Helper()
	for _, e := range v.Edits {
		if err := p.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
}

// published answers with the keys of folders.
type published struct {
	folder Folder
	down   bool
}

func (p published) TXT(_ context.Context, name string) (dns.Answer[string], error) {
	if p.down {
		return dns.Answer[string]{}, errors.New("server failure")
	}
	selector, domain, _ := strings.Cut(name, "._domainkey.")
	key, err := p.folder.Load(domain, selector)
	if err != nil {
		return dns.Answer[string]{Outcome: dns.NXDomain}, nil
	}
	return dns.Answer[string]{Records: []string{Record(key)}}, nil
}

func newFolder(t *testing.T, domains ...string) Folder {
	t.Helper()
	f := Folder{Dir: t.TempDir()}
	for _, domain := range domains {
		if _, err := f.Add(domain, "ed1", dkim.Ed25519, 0, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := f.Use(domain, time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func newRing(t *testing.T, cfg Config) *Ring {
	t.Helper()
	r, err := NewRing(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func names(keys []*dkim.Key) string {
	var all []string
	for _, k := range keys {
		all = append(all, k.Selector+"@"+k.Domain)
	}
	return strings.Join(all, " ")
}

// TestRotation follows a domain through its keys: nothing signs before it is to,
// and at no time does nothing sign.
func TestRotation(t *testing.T) {
	t.Parallel()
	f := Folder{Dir: t.TempDir()}
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	at := func(hours int) string {
		return names(newRing(t, Config{Dir: f.Dir}).For("example.com", now.Add(time.Duration(hours)*time.Hour)))
	}
	add := func(selector string, kind dkim.KeyType) {
		t.Helper()
		if _, err := f.Add("Example.com", selector, kind, 2048, now); err != nil {
			t.Fatal(err)
		}
	}
	add("r1", dkim.RSA)
	if got := at(1); got != "" {
		t.Errorf("a key signs before anybody could see it in the DNS: %s", got)
	}
	if err := f.Use("example.com", now); err != nil {
		t.Fatal(err)
	}
	add("e1", dkim.Ed25519)
	if got := at(1); got != "r1@example.com" {
		t.Errorf("first key: %s", got)
	}
	if err := f.Use("example.com", now); err != nil {
		t.Fatal(err)
	}
	if got := at(1); got != "r1@example.com e1@example.com" {
		t.Errorf("two kinds: %s", got)
	}
	add("r2", dkim.RSA)
	for range 2 { // a second time changes nothing
		if err := f.Use("example.com", now.Add(10*365*24*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	for hours, want := range map[int]string{1: "r1@example.com e1@example.com", 10*365*24 - 1: "r1@example.com e1@example.com", 10 * 365 * 24: "r2@example.com e1@example.com"} {
		if got := at(hours); got != want {
			t.Errorf("after %d hours: %s, want %s", hours, got, want)
		}
	}
	if _, err := f.Add("example.com", "r1", dkim.RSA, 2048, now); err == nil || !strings.Contains(err.Error(), "selector") {
		t.Errorf("a selector twice: %v", err)
	}
}

// TestCrashOfKeygen sees that a key file that no record names does not sign.
func TestCrashOfKeygen(t *testing.T) {
	t.Parallel()
	f := Folder{Dir: t.TempDir()}
	if _, err := f.Add("example.com", "a", dkim.Ed25519, 0, time.Now()); err != nil {
		t.Fatal(err)
	}
	private, err := Generate(dkim.Ed25519, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteKeyFile(filepath.Join(f.Dir, "example.com", "b.pem"), private); err != nil { // and no record
		t.Fatal(err)
	}
	if err := f.Use("example.com", time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := names(newRing(t, Config{Dir: f.Dir}).For("example.com", time.Now())); got != "a@example.com" {
		t.Errorf("%s signs", got)
	}
	if _, err := f.Add("example.com", "b", dkim.Ed25519, 0, time.Now()); err == nil || !strings.Contains(err.Error(), "not overwritten") {
		t.Errorf("over a file: %v", err)
	}
}

func TestSubdomains(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "example.com", "own.example.com")
	for _, row := range []struct {
		domain     string
		subdomains bool
		want       string
	}{
		{"example.com", false, "ed1@example.com"},
		{"a.b.example.com", false, ""},
		{"a.b.example.com", true, "ed1@example.com"},
		{"own.example.com", true, "ed1@own.example.com"},
		{"badexample.com", true, ""},
		{"com", true, ""},
		{"", true, ""},
	} {
		if got := names(newRing(t, Config{Dir: f.Dir, Subdomains: row.subdomains}).For(row.domain, time.Now())); got != row.want {
			t.Errorf("%s (%v): %q, want %q", row.domain, row.subdomains, got, row.want)
		}
	}
}

// TestOpenDKIMFolder takes over what opendkim-genkey left, which has no record.
func TestOpenDKIMFolder(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "example.com")
	dir := filepath.Join(f.Dir, "example.com")
	if err := os.Remove(filepath.Join(dir, stateName)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "ed1.pem"), filepath.Join(dir, "mail.private")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mail.txt"), []byte("record"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := names(newRing(t, Config{Dir: f.Dir}).For("example.com", time.Now())); got != "mail@example.com" {
		t.Errorf("%q signs", got)
	}
}

func TestFilesOthersCanRead(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "example.com")
	file := filepath.Join(f.Dir, "example.com", "ed1.pem")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info.Mode(), err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := NewRing(Config{Dir: f.Dir}, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "chmod 600 "+file) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	for name, text := range map[string]string{"no PEM": "hello", "public": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "": ""} {
		file := filepath.Join(t.TempDir(), "x.pem")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeyFile(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Generate(dkim.RSA, 1024); err == nil {
		t.Error("a key of 1024 bits is made")
	}
}

// TestWatching sees that a running server takes up new keys, and keeps the former
// ones while the folder is broken.
func TestWatching(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "example.com")
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)))
		r := newRing(t, Config{Dir: f.Dir})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = r.Run(ctx) }()
		if _, err := f.Add("example.net", "n", dkim.Ed25519, 0, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := f.Use("example.net", time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := names(r.For("example.net", time.Now())); got != "n@example.net" {
			t.Errorf("new key: %q", got)
		}
		if err := os.WriteFile(filepath.Join(f.Dir, "example.net", stateName), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := names(r.For("example.com", time.Now())) + " " + names(r.For("example.net", time.Now())); got != "ed1@example.com n@example.net" {
			t.Errorf("broken folder: %q", got)
		}
		cancel()
		synctest.Wait()
	})
}

// world is a domain ours.example whose people forward, and what is theirs.
type world struct {
	class map[mail.Domain]policy.DomainClass
}

func (w world) Class(d mail.Domain) policy.DomainClass { return w.class[d] }

func (w world) Resolve(_ context.Context, a mail.Address, _ *mail.Poster) ([]mail.Recipient, error) {
	switch a.Local {
	case "forward":
		return []mail.Recipient{{Address: mail.MustAddress("x@else.example")}}, nil
	case "down":
		return nil, errors.New("directory is down")
	}
	return []mail.Recipient{{Address: a}}, nil
}

func depsOf(t *testing.T, f Folder, down bool) Deps {
	w := world{map[mail.Domain]policy.DomainClass{"example.com": policy.Local}}
	return Deps{
		Ring: newRing(t, Config{Dir: f.Dir}), Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Tables: &table.Opener{Dir: f.Dir, Log: hclog.NewNullLogger()}, Recipients: w, Domains: w, Hostname: "mx.example.com", Resolver: published{f, down},
	}
}

func signStage(t *testing.T, d Deps, args map[string][]string) policy.Stage {
	t.Helper()
	s, err := NewSign(policy.Spec{Name: NameSign, Args: args}, dkim.Options{}, d)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhatIsSigned(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "example.com", "example.net")
	if err := os.WriteFile(filepath.Join(f.Dir, "authors"), []byte("list@example.com none\nguest.example example.net\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := depsOf(t, f, false)
	login := &mail.Identity{Authentication: "ann"}
	inside, outside := netip.MustParseAddrPort("192.0.2.9:25"), netip.MustParseAddrPort("198.51.100.1:25")
	for _, row := range []struct {
		name   string
		from   string
		args   map[string][]string
		login  *mail.Identity
		client netip.AddrPort
		want   string // the domains that sign
		detail string
	}{
		{"logged in", "From: Ann <ann@Example.com>", nil, login, outside, "example.com", ""},
		{"own network", "From: ann@example.com", nil, nil, inside, "example.com", ""},
		{"stranger", "From: ann@example.com", nil, nil, outside, "", ""},
		{"everyone", "From: ann@example.com", map[string][]string{"for": {"everyone"}}, nil, outside, "example.com", ""},
		{"only logins", "From: ann@example.com", map[string][]string{"for": {"authenticated"}}, nil, inside, "", ""},
		{"other domain", "From: ann@example.org", nil, login, outside, "", ""},
		{"no From", "To: b@example.com", nil, login, outside, "", "no From"},
		{"two authors", "From: a@example.com, b@example.net", nil, login, outside, "", "exactly one author"},
		{"two From", "From: a@example.com\nFrom: a@example.com", nil, login, outside, "", "exactly one author"},
		{"table says none", "From: list@example.com", map[string][]string{"table": {"texthash:authors"}}, login, outside, "", ""},
		{"table says other", "From: x@guest.example", map[string][]string{"table": {"texthash:authors"}}, login, outside, "example.net", ""},
		{"table says nothing", "From: y@example.com", map[string][]string{"table": {"texthash:authors"}}, login, outside, "example.com", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			m := letter(row.from + "\nSubject: s\n\nhello\n")
			tx := &mail.Transaction{Message: m, Client: mail.Client{Identity: row.login, Remote: row.client}}
			v, err := signStage(t, d, row.args).Evaluate(t.Context(), tx)
			if err != nil || !strings.Contains(v.Detail, row.detail) || (v.Detail == "") != (row.detail == "") {
				t.Fatalf("%+v %v", v, err)
			}
			m.apply(t, v)
			all, err := dkim.NewVerifier(dkim.Config{}, published{f, false}).Verify(t.Context(), m.fields, strings.NewReader(m.body))
			var signed []string
			for _, one := range all {
				if one.Result != dkim.Pass {
					t.Errorf("%s: %s %q", one.Signature.Domain, one.Result, one.Reason)
				}
				signed = append(signed, one.Signature.Domain)
			}
			if got := strings.Join(signed, " "); err != nil || got != row.want {
				t.Errorf("signed by %q, want %q (%v)", got, row.want, err)
			}
		})
	}
}

// TestSigningFails sees that what cannot be signed is let through, and only
// deferred where the operator asked for it.
func TestSigningFails(t *testing.T) {
	t.Parallel()
	d := depsOf(t, newFolder(t, "example.com"), false)
	for _, strict := range []bool{false, true} {
		args := map[string][]string{}
		if strict {
			args["on_error"] = []string{"defer"}
		}
		m := letter("From: a@example.com\n\n")
		m.broken = true
		tx := &mail.Transaction{Message: m, Client: mail.Client{Identity: &mail.Identity{}}}
		v, err := signStage(t, d, args).Evaluate(t.Context(), tx)
		if strict != errors.Is(err, errDisk) || !strict && !strings.Contains(v.Detail, "not signed") || len(v.Edits) > 0 {
			t.Errorf("strict %v: %+v %v", strict, v, err)
		}
	}
}

func TestAttributes(t *testing.T) {
	t.Parallel()
	for _, args := range []map[string][]string{
		{"for": {"everybody"}}, {"identity": {"x"}}, {"keys": {"x"}}, {"table": {"texthash:/nonexistent/file"}},
	} {
		if _, err := NewSign(policy.Spec{Args: args}, dkim.Options{}, Deps{Tables: &table.Opener{Log: hclog.NewNullLogger()}}); err == nil {
			t.Errorf("sign_dkim %v is accepted", args)
		}
	}
	for _, args := range []map[string][]string{{"when": {"x"}}, {"domain": {"x"}}, {"key": {"x"}}} {
		if _, err := NewSeal(policy.Spec{Args: args}, Deps{}); err == nil {
			t.Errorf("seal_arc %v is accepted", args)
		}
	}
}

func TestWhatIsSealed(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "example.com")
	stranger := mail.Client{Remote: netip.MustParseAddrPort("198.51.100.1:25")}
	for _, row := range []struct {
		name     string
		to       string
		client   mail.Client
		args     map[string][]string
		findings []mail.Finding
		down     bool
		chain    arc.Result // after it, with our set
		sets     int
		detail   string
	}{
		{"forwarded", "forward@example.com", stranger, nil, nil, false, arc.Pass, 1, ""},
		{"not forwarded", "ann@example.com", stranger, nil, nil, false, arc.None, 0, ""},
		{"always", "ann@example.com", stranger, map[string][]string{"when": {"always"}}, nil, false, arc.Pass, 1, ""},
		{"of ours", "forward@example.com", mail.Client{Identity: &mail.Identity{}}, nil, nil, false, arc.None, 0, ""},
		{"domain without a key", "forward@example.com", stranger, map[string][]string{"domain": {"example.net"}}, nil, false, arc.None, 0, "no DKIM key of example.net"},
		{"directory down", "down@example.com", stranger, nil, nil, false, arc.None, 0, "directory is down"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := depsOf(t, f, row.down)
			stage, err := NewSeal(policy.Spec{Name: NameSeal, Args: row.args}, d)
			if err != nil {
				t.Fatal(err)
			}
			m := letter("Received: by us\nFrom: a@example.org\n\nhello\n")
			m.ours = 1
			tx := &mail.Transaction{
				Message: m, Client: row.client,
				Findings: []mail.Finding{{Method: "spf", Result: "pass", Props: []mail.Property{{Type: "smtp", Name: "mailfrom", Value: "example.org"}}}, {Method: "x-rules", Result: "none"}},
			}
			tx.Envelope.Recipients = []mail.Recipient{{Address: mail.MustAddress(row.to)}}
			for round := range max(1, row.sets) + 1 {
				if row.sets == 0 && round > 0 {
					break
				}
				v, err := stage.Evaluate(t.Context(), tx)
				if err != nil || !strings.Contains(v.Detail, row.detail) || (v.Detail == "") != (row.detail == "") {
					t.Fatalf("%+v %v", v, err)
				}
				m.apply(t, v)
				m.ours = 0 // the next server's
				chain, err := arc.NewVerifier(arc.Config{}, published{f, false}).Verify(t.Context(), m.fields, strings.NewReader(m.body))
				want := round + 1
				if row.sets == 0 {
					want = 0
				}
				if err != nil || chain.Result != row.chain || len(chain.Sets) != want {
					t.Fatalf("round %d: %s %q, %d sets, %v", round, chain.Result, chain.Reason, len(chain.Sets), err)
				}
				if want > 0 && !strings.HasPrefix(chain.Sets[0].Results, "mx.example.com;\r\n\tspf=pass smtp.mailfrom=example.org") {
					t.Errorf("results: %q", chain.Sets[0].Results)
				}
			}
		})
	}
}

// TestFailedChains seals with what authenticate found, also when a stage changed
// the message since, and does not call a chain failed because the DNS is down.
func TestFailedChains(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "example.com")
	sealed := func() *paper {
		m := letter("From: a@example.org\n\nhello\n")
		tx := &mail.Transaction{Message: m}
		tx.Envelope.Recipients = []mail.Recipient{{Address: mail.MustAddress("x@example.com")}}
		stage, _ := NewSeal(policy.Spec{Args: map[string][]string{"when": {"always"}}}, depsOf(t, f, false))
		v, err := stage.Evaluate(t.Context(), tx)
		if err != nil {
			t.Fatal(err)
		}
		m.apply(t, v)
		return m
	}
	for _, row := range []struct {
		name    string
		finding string
		down    bool
		body    string
		edits   int
		cv      string
	}{
		{"changed after it passed", "pass", false, "footer\r\n", 3, "pass"},
		{"failed before", "fail", false, "", 3, "fail"},
		{"unknown", "temperror", false, "", 0, ""},
		{"looked at now", "", false, "", 3, "pass"},
		{"looked at now, changed", "", false, "footer\r\n", 3, "fail"},
		{"looked at now, DNS down", "", true, "", 0, ""},
	} {
		m := sealed()
		m.body += row.body
		tx := &mail.Transaction{Message: m}
		tx.Envelope.Recipients = []mail.Recipient{{Address: mail.MustAddress("x@example.com")}}
		if row.finding != "" {
			tx.Findings = []mail.Finding{{Method: "arc", Result: row.finding}}
		}
		stage, _ := NewSeal(policy.Spec{Args: map[string][]string{"when": {"always"}}}, depsOf(t, f, row.down))
		v, err := stage.Evaluate(t.Context(), tx)
		if err != nil || len(v.Edits) != row.edits {
			t.Errorf("%s: %+v %v", row.name, v, err)
			continue
		}
		if row.edits > 0 && !strings.Contains(v.Edits[2].PrependHeader, "cv="+row.cv+";") {
			t.Errorf("%s: %s", row.name, v.Edits[2].PrependHeader)
		}
	}
}

func TestOwnMail(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "example.com")
	signer, err := dkim.NewSigner(dkim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	own := &Own{Ring: newRing(t, Config{Dir: f.Dir}), Signer: signer}
	const report = "From: postmaster@example.com\r\nSubject: report\r\n folded\r\n\r\nhello\r\n"
	signed, err := own.Sign([]byte(report))
	if err != nil || !strings.HasSuffix(string(signed), report) {
		t.Fatalf("%q %v", signed, err)
	}
	fields, body := Split(signed)
	all, err := dkim.NewVerifier(dkim.Config{}, published{f, false}).Verify(t.Context(), fields, strings.NewReader(string(body)))
	if err != nil || len(all) != 1 || all[0].Result != dkim.Pass {
		t.Errorf("%+v %v", all, err)
	}
	for _, text := range []string{"Subject: x\r\n\r\n", "From: a@example.org\r\n\r\n", ""} {
		if got, _ := own.Sign([]byte(text)); string(got) != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}
