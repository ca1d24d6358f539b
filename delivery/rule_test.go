package delivery_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

func ruleFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(testenv.TempDir(t), "rules")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRulePrecedence: rules are found in the order of transport(5) and
// sender_dependent_relayhost_maps, and stand where they should among what else
// decides.
func TestRulePrecedence(t *testing.T) {
	t.Parallel()
	transports := ruleFile(t, `# transport(5)
user+ext@rule.example  direct:ext.example
user@rule.example      direct:user.example
rule.example           direct:domain.example,
                       [192.0.2.7]:26
.rule.example          direct:below.example
.deep.rule.example     direct:deeper.example
keep.rule.example      :
Moved.example          error:5.1.6 User has moved to new.example
later.example          retry:4.7.5 not yet
void.example           discard:
own@example.com        :[192.0.2.8]
bare.example           :[192.0.2.8]
passed.example         relay:[192.0.2.9]
[192.0.2.1]            isp:
bücher.example         isp:
`)
	senders := ruleFile(t, "boss@here.example direct:boss.example\n@here.example isp:\n<> direct:reports.example\n")
	relays := ruleFile(t, "boss@here.example [192.0.2.50]\n@there.example [192.0.2.51]:587, [192.0.2.52]\nno@there.example DUNNO\n")
	r, _ := newRouter(t, func(cfg *delivery.Config) {
		cfg.Recipients = delivery.Rules{
			Fixed: map[string]mail.Route{"fixed@rule.example": {Transport: "isp"}, "Both.example": {Transport: "isp"}},
			Files: []string{transports, ruleFile(t, "user@rule.example isp:\nboth.example direct:\nuser@both.example direct:second.example\n")},
		}
		cfg.Senders = delivery.Rules{Files: []string{senders}, RelayFiles: []string{relays}}
	})
	for _, tt := range []struct{ from, to, want string }{
		{"", "user+ext@rule.example", "direct/ext.example"},
		{"", "USER+Ext@rule.example", "direct/ext.example"},
		{"", "user+other@rule.example", "direct/user.example"},
		{"", "user@rule.example", "direct/user.example"},
		{"", "other@rule.example", "direct/domain.example, [192.0.2.7]:26"},
		{"", "a@sub.rule.example", "direct/below.example"},
		{"", "a@x.deep.rule.example", "direct/deeper.example"},
		{"", "a@deep.rule.example", "direct/below.example"},
		{"a@elsewhere.example", "a@keep.rule.example", "smtp/keep.rule.example"},
		{"", "a@moved.example", "error/5.1.6 User has moved to new.example"},
		{"", "a@later.example", "retry/4.7.5 not yet"},
		{"", "a@void.example", "discard/"},
		{"", "own@example.com", "mail1/[192.0.2.8]"},
		{"", "a@bare.example", "smtp/[192.0.2.8]"},
		{"", "a@passed.example", "smtp/[192.0.2.9]"},
		{"", "a@[192.0.2.1]", "isp/"},
		{"", "a@xn--bcher-kva.example", "isp/"},
		{"", "fixed@rule.example", "isp/"},
		{"", "user@both.example", "direct/second.example"}, // the longer key of a later table
		{"", "other@both.example", "isp/"},
		{"boss@here.example", "a@elsewhere.example", "direct/boss.example"},
		{"Boss+x@here.example", "a@elsewhere.example", "direct/boss.example"},
		{"a@here.example", "a@elsewhere.example", "isp/"},
		{"a@here.example", "a@example.com", "mail1/"},
		{"a@here.example", "fixed@rule.example", "isp/"},
		{"", "a@elsewhere.example", "direct/reports.example"},
		{"a@there.example", "a@elsewhere.example", "smtp/[192.0.2.51]:587, [192.0.2.52]"},
		{"no@there.example", "a@elsewhere.example", "smtp/elsewhere.example"},
		{"a@nowhere.example", "a@elsewhere.example", "smtp/elsewhere.example"},
	} {
		from := mail.Address{}
		if tt.from != "" {
			from = mail.MustAddress(tt.from)
		}
		if got := r.Destination(from, mail.Recipient{Address: mail.MustAddress(tt.to)}); got != tt.want {
			t.Errorf("%q to %s: got %q, want %q", tt.from, tt.to, got, tt.want)
		}
	}
	given := mail.Recipient{Address: mail.MustAddress("user@rule.example"), Route: mail.Route{Transport: "mail1"}}
	if got := r.Destination(mail.Address{}, given); got != "mail1/" {
		t.Errorf("the directory's route: got %q", got)
	}
}

// TestEverythingElse: the last resort takes what no other rule is about.
func TestEverythingElse(t *testing.T) {
	t.Parallel()
	r, _ := newRouter(t, func(cfg *delivery.Config) {
		cfg.Relayhost = "isp"
		cfg.Recipients.Fixed = map[string]mail.Route{"*": {Transport: "direct"}, ".example": {NextHop: "gw.test"}}
	})
	for to, want := range map[string]string{
		"a@x.example": "smtp/gw.test",                                                                                // never the relay host, whose login is its own
		"a@x.test":    "direct/x.test", "a@[192.0.2.3]": "direct/[192.0.2.3]", "a@example.com": "direct/example.com", // * is for our own, too
	} {
		if got := r.Destination(mail.Address{}, mail.Recipient{Address: mail.MustAddress(to)}); got != want {
			t.Errorf("%s: got %q, want %q", to, got, want)
		}
	}
}

// TestMailThatGoesNowhere: error, retry and discard are outcomes without a
// target, and what bounces is known before the mail is taken.
func TestMailThatGoesNowhere(t *testing.T) {
	t.Parallel()
	r, log := newRouter(t, func(cfg *delivery.Config) {
		cfg.Recipients.Fixed = map[string]mail.Route{
			"gone.example": {Transport: "error", NextHop: "5.1.6 has moved"}, "plain.example": {Transport: "error", NextHop: "no more"},
			"wait.example": {Transport: "retry", NextHop: "5.7.1 later"}, "void.example": {Transport: "discard"},
		}
	})
	d := message("a@gone.example", "a@plain.example", "a@wait.example", "a@void.example")
	got := r.Deliver(t.Context(), d)
	if s := sketch(got); s != "bounced 5.1.6, bounced 5.0.0, deferred 4.7.1, delivered 2.0.0" {
		t.Errorf("outcomes %s", s)
	}
	if got[0].Reply.Text != "has moved" || got[1].Reply.Text != "no more" || got[2].Reply.Text != "later" || !got[3].Final || len(*log) != 0 {
		t.Errorf("%+v, attempts %v", got, *log)
	}
	for i, want := range []bool{true, true, false, false} {
		err := r.Refusal(d.Envelope.ReversePath, d.Envelope.Recipients[i])
		if (err != nil) != want {
			t.Errorf("%s: refusal %v", d.Envelope.Recipients[i].Address, err)
		}
		if want && status.ReplyOf(err) != got[i].Reply {
			t.Errorf("refused with %v, bounced with %v", status.ReplyOf(err), got[i].Reply)
		}
	}
}

func parseRules(name, text string, sender, relayOnly bool, known func(string) bool) (table.Table, error) {
	return (&table.Opener{}).Parse(table.KindText, name, strings.NewReader(text), delivery.RuleUse(sender, relayOnly, known))
}

func TestRulesRefused(t *testing.T) {
	t.Parallel()
	known := func(name string) bool { return name == "smtp" }
	for _, text := range []string{
		"a.example", "a.example uucp:x", "a.example nothing", "a.example smtp:[x", "a.example smtp:a, b c", " smtp:", "a..b smtp:",
		"a@ smtp:", "a.example smtp:\nA.Example smtp:", "@a.example smtp:", "<> smtp:",
	} {
		if rules, err := parseRules("file", text, false, false, known); err == nil {
			t.Errorf("%q: %v", text, rules)
		} else if !strings.HasPrefix(err.Error(), "file:") {
			t.Errorf("%q: %v does not say where", text, err)
		}
	}
	for _, text := range []string{"a.example smtp:", "* smtp:", ".a.example smtp:"} {
		if rules, err := parseRules("file", text, true, false, known); err == nil {
			t.Errorf("for senders: %q: %v", text, rules)
		}
	}
	have := map[string]delivery.Transport{delivery.Outbound: recorder{log: new([]string)}}
	for name, cfg := range map[string]delivery.Config{
		"no such target":  {Recipients: delivery.Rules{Fixed: map[string]mail.Route{"a.example": {Transport: "b"}}}},
		"no such key":     {Senders: delivery.Rules{Fixed: map[string]mail.Route{"a.example": {Transport: "smtp"}}}},
		"no such file":    {Recipients: delivery.Rules{Files: []string{"/nonexistent"}}},
		"mistake in file": {Senders: delivery.Rules{RelayFiles: []string{ruleFile(t, "@a.example [b\n")}}},
		"lmtp falls back": {Targets: []delivery.Target{{Name: "smtp", Addresses: []string{"a"}, Fallback: []string{"b"}}}},
	} {
		if _, err := delivery.New(cfg, have, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestExplainNamesTheRule: an operator sees what decided, and where it stands.
func TestExplainNamesTheRule(t *testing.T) {
	t.Parallel()
	r, _ := newRouter(t, func(cfg *delivery.Config) {
		cfg.Recipients.Fixed = map[string]mail.Route{".rule.example": {Transport: "isp"}, "gone.example": {Transport: "error", NextHop: "away"}}
		cfg.Senders.Fixed = map[string]mail.Route{"@here.example": {NextHop: "[192.0.2.1]"}}
	})
	for to, want := range map[string]string{
		"a@sub.rule.example": "isp  rule for the recipient .rule.example in the configuration",
		"a@gone.example":     "error bounced 550 5.0.0 away rule for the recipient gone.example in the configuration",
		"a@example.com":      "mail1  domain of ours",
		"a@elsewhere.test":   "smtp  rule for the sender @here.example in the configuration",
	} {
		e, _, err := r.Explain(t.Context(), mail.MustAddress("x@here.example"), mail.Recipient{Address: mail.MustAddress(to)})
		if got := e.Route.Transport + " " + e.Says + " " + e.Why; err != nil || got != want {
			t.Errorf("%s: %q, %v", to, got, err)
		}
	}
}

func TestOurselves(t *testing.T) {
	t.Parallel()
	all := delivery.NewOurselves([]string{":25"}, []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")})
	one := delivery.NewOurselves([]string{"192.0.2.1:25", "mail.example.com:25", "[2001:db8::1]:2525"}, nil)
	for _, tt := range []struct {
		us   *delivery.Ourselves
		at   string
		want bool
	}{
		{all, "127.0.0.1:25", true}, {all, "127.8.9.1:25", true}, {all, "[::1]:25", true}, {all, "0.0.0.0:25", true},
		{all, "[::ffff:127.0.0.1]:25", true}, {all, "127.0.0.1:26", false}, {all, "198.51.100.7:25", true}, {all, "203.0.113.1:25", false},
		{one, "192.0.2.1:25", true}, {one, "127.0.0.1:25", false}, {one, "[2001:db8::1]:2525", true}, {one, "[2001:db8::1]:25", false},
		{nil, "127.0.0.1:25", false},
	} {
		if got := tt.us.At(netip.MustParseAddrPort(tt.at)); got != tt.want {
			t.Errorf("%s: %t", tt.at, got)
		}
	}
	if !one.Have(netip.MustParseAddr("2001:db8::1")) || one.Have(netip.MustParseAddr("192.0.2.2")) {
		t.Error("literals")
	}
}

// FuzzParseRules: what a file is taken for can be looked up, and every next
// hop in it read.
func FuzzParseRules(f *testing.F) {
	for _, seed := range []string{"a.example smtp:[b]:25", "u@a.example error:5.1.1 no\n# c\n.a.example :\n* discard:", "b\u00fccher.example smtp:", "@a [x]"} {
		f.Add(seed, false, false)
		f.Add(seed, true, true)
	}
	known := func(s string) bool { return s == "smtp" }
	f.Fuzz(func(t *testing.T, text string, sender, relayOnly bool) {
		rules, err := parseRules("f", text, sender, relayOnly, known)
		if err != nil {
			return
		}
		for _, key := range strings.Fields(text) {
			values, err := rules.Lookup(t.Context(), key)
			if err != nil || len(values) == 0 {
				continue
			}
			if _, err := delivery.ParseRule(values[0], relayOnly, known); err != nil {
				t.Fatalf("%q: %v", values[0], err)
			}
		}
	})
}
