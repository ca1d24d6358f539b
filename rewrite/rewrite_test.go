package rewrite

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// text makes a table of a file's text.
func text(t testing.TB, lines string) table.Table { return file(t, "texthash:", lines) }

func file(t testing.TB, kind, lines string) table.Table {
	t.Helper()
	path := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	opened, err := (&table.Opener{Log: hclog.NewNullLogger()}).Open(kind+path, TableUse)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// down is a table that does not answer.
type down struct{}

func (down) Name() string { return "down" }

func (down) Lookup(context.Context, string) ([]string, error) {
	return nil, errors.New("connection refused")
}

// several gives more than one result, as a directory may.
type several []string

func (several) Name() string { return "several" }

func (s several) Lookup(context.Context, string) ([]string, error) { return s, nil }

var (
	senders    = []Class{EnvelopeSender, HeaderSender}
	recipients = []Class{EnvelopeRecipient, HeaderRecipient}
	all        = append(append([]Class(nil), senders...), recipients...)
)

// config is one that most tests begin with.
func config() Config {
	return Config{
		Origin: "example.com", LocalNames: []mail.Domain{"host.example.com"}, Delimiter: "+", PropagateCanonical: true,
		HeaderClients: Clients{Authenticated: true, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
	}
}

func rewriter(t testing.TB, cfg Config) *Rewriter {
	t.Helper()
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.Canonical = Map{[]table.Table{text(t, `
# comment
alice@example.com        Alice.Anders@example.com
bob+lists@example.com    robert.lists@example.com
bob@example.com          robert
carol                    carol.c@example.com
carol+x                  carol.x@example.com
@old.example             @new.example
@gone.example            nobody@example.com
one@chain.example        two@chain.example
two@chain.example        three@chain.example
"john smith"@example.com john.smith@example.com
ping@loop.example        pong@loop.example
pong@loop.example        ping@loop.example
@müller.example          @mueller.example
self@example.com         self@example.com`)}, all}
	r := rewriter(t, cfg)
	for in, want := range map[string]string{
		"alice@example.com":        "Alice.Anders@example.com",
		"ALICE@EXAMPLE.COM":        "Alice.Anders@example.com",
		"alice+Tag@example.com":    "Alice.Anders+Tag@example.com",
		"bob@example.com":          "robert@example.com",
		"bob+lists@example.com":    "robert.lists@example.com",
		"bob+other@example.com":    "robert+other@example.com",
		"carol@example.com":        "carol.c@example.com",
		"carol@host.example.com":   "carol.c@example.com",
		"carol+x@host.example.com": "carol.x@example.com",
		"carol@elsewhere.example":  "carol@elsewhere.example",
		"Some.Body+x@old.example":  "Some.Body+x@new.example",
		"anybody+x@gone.example":   "nobody@example.com",
		"one@chain.example":        "three@chain.example",
		`"john smith"@example.com`: "john.smith@example.com",
		"postmaster+x@example.com": "postmaster+x@example.com",
		"dave@example.com":         "dave@example.com",
		"x@xn--mller-kva.example":  "x@mueller.example",
		"self@example.com":         "self@example.com",
		"self+tag@example.com":     "self+tag@example.com",
	} {
		got, err := r.Recipient(t.Context(), mail.MustAddress(in))
		if err != nil || got.String() != want {
			t.Errorf("%s becomes %s, %v; want %s", in, got, err, want)
		}
	}
	if got, err := r.Recipient(t.Context(), mail.MustAddress("ping@loop.example")); status.Of(err) != status.ConfigurationError {
		t.Errorf("a map that leads around in circles gives %s, %v", got, err)
	}
	if got, err := r.Sender(t.Context(), mail.Address{}); err != nil || !got.IsNull() {
		t.Errorf("the null reverse-path becomes %s, %v", got, err)
	}
	if got, err := r.Recipient(t.Context(), mail.Address{Local: "postmaster"}); err != nil || got.Domain != "" {
		t.Errorf("postmaster becomes %s, %v", got, err)
	}
}

// TestOrder: the special map comes before the general one and masquerading
// after both, each in its classes only.
func TestOrder(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.SenderCanonical = Map{[]table.Table{text(t, "a@example.com s@one.example.com")}, senders}
	cfg.RecipientCanonical = Map{[]table.Table{text(t, "a@example.com r@one.example.com")}, []Class{EnvelopeRecipient}}
	cfg.Canonical = Map{[]table.Table{text(t, "s@one.example.com s2@two.example.com\nr@one.example.com r2@two.example.com\na@example.com c@two.example.com")}, all}
	cfg.MasqueradeDomains, cfg.MasqueradeClasses = []string{"example.com"}, []Class{EnvelopeSender, HeaderSender, HeaderRecipient}
	r := rewriter(t, cfg)
	steps, err := r.Explain(t.Context(), mail.MustAddress("a@example.com"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[Class]string{
		EnvelopeSender: "s2@example.com", HeaderSender: "s2@example.com",
		EnvelopeRecipient: "r2@two.example.com", HeaderRecipient: "c@example.com",
	}
	for _, s := range steps {
		if s.Address.String() != want[s.Class] {
			t.Errorf("%s: %s, want %s", s.Class, s.Address, want[s.Class])
		}
	}
}

func TestMasquerade(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.MasqueradeDomains = []string{"keep.a.example.com", "!foo.example.com", "example.com"}
	cfg.MasqueradeExceptions = []string{"root"}
	cfg.MasqueradeClasses = []Class{EnvelopeSender}
	r := rewriter(t, cfg)
	for in, want := range map[string]string{
		"a@host.example.com":     "a@example.com",
		"a@b.c.example.com":      "a@example.com",
		"a@example.com":          "a@example.com",
		"a@notexample.com":       "a@notexample.com",
		"a@foo.example.com":      "a@foo.example.com",
		"a@bar.foo.example.com":  "a@bar.foo.example.com",
		"a@keep.a.example.com":   "a@keep.a.example.com",
		"a@x.keep.a.example.com": "a@keep.a.example.com",
		"Root@host.example.com":  "Root@host.example.com",
	} {
		if got, err := r.Sender(t.Context(), mail.MustAddress(in)); err != nil || got.String() != want {
			t.Errorf("%s becomes %s, %v; want %s", in, got, err, want)
		}
		if got, err := r.Recipient(t.Context(), mail.MustAddress(in)); err != nil || got.String() != in {
			t.Errorf("the recipient %s becomes %s, %v", in, got, err)
		}
	}
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.Canonical = Map{[]table.Table{file(t, "regexp:", `
/^(.+)\.(.+)@long\.example$/   ${2}.$1@short.example
/^CASE@(.*)$/i                 case@$(1)
!/@.*\.example/                outside
# a comment
/^first@x\.example$/           one@x.example
/^f/                           two@y.example`)}, all}
	r := rewriter(t, cfg)
	for in, want := range map[string]string{
		"Ann.Lee@LONG.example": "Lee.Ann@short.example",
		"case@a.example":       "case@a.example",
		"CASE@a.example":       "case@a.example",
		"a@b.test":             "outside@example.com",
		"first@x.example":      "one@x.example",
	} {
		got, err := r.Recipient(t.Context(), mail.MustAddress(in))
		if in == "a@b.test" { // its result does not match the pattern again: it would go on for ever
			if status.Of(err) == status.DirectoryDown {
				t.Errorf("%s: %v", in, err)
			}
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("%s becomes %s, %v; want %s", in, got, err, want)
		}
	}
}

// TestSRSRecipientsStay: no map comes between a rewritten sender and the way
// back to the one behind it.
func TestSRSRecipientsStay(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.SRSDomain, cfg.MasqueradeDomains, cfg.MasqueradeClasses = "srs.example.com", []string{"example.com"}, []Class{EnvelopeRecipient}
	r := rewriter(t, cfg)
	for in, want := range map[string]string{
		"SRS0=aaaa=bb=c.example=d@srs.example.com":   "SRS0=aaaa=bb=c.example=d@srs.example.com",
		"ann@srs.example.com":                        "ann@example.com",
		"SRS0=aaaa=bb=c.example=d@other.example.com": "SRS0=aaaa=bb=c.example=d@example.com",
	} {
		if got, err := r.Recipient(t.Context(), mail.MustAddress(in)); err != nil || got.String() != want {
			t.Errorf("%s becomes %s, %v; want %s", in, got, err, want)
		}
	}
}

// TestOutage: a table that does not answer is not a table without an entry,
// and what comes from one must be an address.
func TestOutage(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		table table.Table
		want  status.Reason
	}{
		"down":    {down{}, status.DirectoryDown},
		"several": {several{"a@x.example", "b@x.example"}, status.ConfigurationError},
		"junk":    {several{"|/bin/sh"}, status.ConfigurationError},
		"empty":   {several{""}, status.ConfigurationError},
	} {
		cfg := config()
		cfg.Canonical = Map{[]table.Table{text(t, "known@example.com known@example.net"), row.table}, []Class{EnvelopeRecipient}}
		cfg.SenderBcc = []table.Table{row.table}
		r := rewriter(t, cfg)
		_, err := r.Recipient(t.Context(), mail.MustAddress("a@example.com"))
		if status.Of(err) != row.want || status.Of(err).Permanent() {
			t.Errorf("%s: %v, want %v", name, err, row.want)
		}
		if name == "several" {
			continue
		}
		if _, err := r.Copies(t.Context(), mail.MustAddress("a@example.com"), nil); name != "empty" && status.Of(err) != row.want {
			t.Errorf("%s, copies: %v, want %v", name, err, row.want)
		}
	}
}

func TestCopies(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.AlwaysBcc = []mail.Address{mail.MustAddress("archive@example.com")}
	cfg.SenderBcc = []table.Table{text(t, "@example.com sent, archive@example.com\nboss@example.com secretary@example.com")}
	cfg.RecipientBcc = []table.Table{text(t, "info@example.com log@example.net")}
	cfg.RecipientCanonical = Map{[]table.Table{text(t, "old@example.com info@example.com")}, recipients}
	r := rewriter(t, cfg)
	if !r.MakesCopies() {
		t.Error("it says it makes no copies")
	}
	for _, row := range []struct {
		from string
		to   []string
		want string
	}{
		{"x@far.example", nil, "archive@example.com always_bcc"},
		{"ann@example.com", nil, "archive@example.com always_bcc, sent@example.com sender_bcc_maps"},
		{"boss+x@example.com", nil, "archive@example.com always_bcc, secretary@example.com sender_bcc_maps"},
		{"x@far.example", []string{"info+y@example.com", "info@example.com"}, "archive@example.com always_bcc, log@example.net recipient_bcc_maps"},
		{"x@far.example", []string{"old@example.com"}, "archive@example.com always_bcc, log@example.net recipient_bcc_maps"},
	} {
		var to []mail.Address
		for _, a := range row.to {
			to = append(to, mail.MustAddress(a))
		}
		found, err := r.Copies(t.Context(), mail.MustAddress(row.from), to)
		var got []string
		for _, c := range found {
			got = append(got, c.To.String()+" "+c.By)
		}
		if text := strings.Join(got, ", "); err != nil || text != row.want {
			t.Errorf("from %s to %v: %s, %v; want %s", row.from, row.to, text, err, row.want)
		}
	}
	if found, err := r.Copies(t.Context(), mail.Address{}, nil); err != nil || len(found) != 1 {
		t.Errorf("of a report: %v, %v", found, err)
	}
}

// TestBadTables: what no lookup could use is told when the file is read.
func TestBadTables(t *testing.T) {
	t.Parallel()
	for lines, want := range map[string]string{
		"a@x.example":            `:1: "a@x.example" stands for nothing`,
		"a@x b@y\n\na@@x b":      ":3: ",
		"a@x.example |/bin/sh":   ":1: ",
		"a@x.example b c@d":      ":1: ",
		"@ b":                    ":1: ",
		"a@x.example @y.example": "",
	} {
		path := filepath.Join(t.TempDir(), "table")
		if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := (&table.Opener{}).Open(path, TableUse)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v; want %q", lines, err, want)
		}
	}
}

func TestConfigMistakes(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"origin":     func(c *Config) { c.Origin = "not a domain" },
		"append":     func(c *Config) { c.AppendDomain = "-" },
		"masquerade": func(c *Config) { c.MasqueradeDomains = []string{"!!x.example"} },
	} {
		cfg := config()
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
