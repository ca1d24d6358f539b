package policy

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// TestOpenRelayForms drives the classic ways to smuggle a foreign destination
// past a relay check through the parser of the wire and the default lists.
func TestOpenRelayForms(t *testing.T) {
	t.Parallel()
	const denied, malformed, unknown = "554 5.7.1", "malformed", "550 5.1.1"
	for _, tt := range []struct{ path, want string }{
		{"<victim@other.example>", denied},
		{"<victim@OTHER.example.>", denied},
		{"<victim%other.example@example.com>", denied},
		{"<victim%other.example@EXAMPLE.COM.>", denied},
		{"<other.example!victim@example.com>", denied},
		{"<a!b!victim@example.com>", denied},
		{"<victim%other.example@relayed.example>", denied},
		{"<other.example!victim@relayed.example>", denied},
		{`<"victim@other.example"@example.com>`, denied},
		{`<"victim@other.example"@relayed.example>`, denied},
		{`<"victim\@other.example"@example.com>`, denied},
		{`<"victim%other.example"@example.com>`, denied},
		{`<"other.example!victim"@example.com>`, denied},
		{`<"@example.com:victim@other.example"@example.com>`, denied},
		{`<"victim"@other.example>`, denied},
		{"<@example.com:victim@other.example>", denied},
		{"<@example.com,@relayed.example:victim@other.example>", denied},
		{"<@example.com:victim%other.example@example.com>", denied},
		{"<victim%other.example@[192.0.2.25]>", denied},
		{"<victim@[198.51.100.1]>", denied},
		{"<victim@[IPv6:2001:db8::1]>", denied},
		{"<victim@sub.example.com>", denied},
		{"<victim@example.com.other.example>", denied},
		{"<victim@other.example@example.com>", malformed},
		{"<victim@example.com@other.example>", malformed},
		{"<victim@other.example,alice@example.com>", malformed},
		{`<"victim@other.example>`, malformed},
		{`<victim@other.example"@example.com>`, malformed},
		{"<victim@>", malformed},
		{"<@other.example>", malformed},
		{"<victim>", malformed},
		{"<other.example!victim>", malformed},
		{"<victim%other.example>", malformed},
		{"<victim@example.com%other.example>", malformed},
		{"<nobody@example.com>", unknown},
		{"<alice@example.com>", "ok"},
		{"<Alice@Example.Com.>", "ok"},
		{"<@other.example:alice@example.com>", "ok"},
		{`<"alice"@example.com>`, "ok"},
		{"<alice@relayed.example>", "ok"},
		{"<alice@[192.0.2.25]>", "ok"},
		{"<postmaster>", "ok"},
	} {
		t.Run(tt.path, func(t *testing.T) {
			t.Parallel()
			address, rest, err := mail.ParsePath(tt.path, false)
			got := malformed
			if err == nil && rest == "" {
				f := &fixture{}
				chain, err := Build(Config{}, DefaultMX(), deps(f))
				if err != nil {
					t.Fatal(err)
				}
				tx := transaction("s@sender.example", "")
				tx.Recipient = &mail.Recipient{Address: address}
				got = outcome(chain.Session().Evaluate(t.Context(), tx))
			}
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestTrustedClientsMayRelay(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		client func(*mail.Client)
		want   string
	}{
		{"a stranger", func(*mail.Client) {}, "554 5.7.1"},
		{"our network", func(c *mail.Client) { c.Remote = addrPort("10.1.2.3:25") }, "ok"},
		{"our network, mapped into IPv6", func(c *mail.Client) { c.Remote = addrPort("[::ffff:10.1.2.3]:25") }, "ok"},
		{"our network in IPv6", func(c *mail.Client) { c.Remote = addrPort("[2001:db8:1::9]:25") }, "ok"},
		{"beside our network", func(c *mail.Client) { c.Remote = addrPort("11.1.2.3:25") }, "554 5.7.1"},
		{"logged in", func(c *mail.Client) { c.Identity = &mail.Identity{Authentication: "alice", Mechanism: "PLAIN"} }, "ok"},
		{"anonymous", func(c *mail.Client) { c.Identity = &mail.Identity{Authentication: "x", Mechanism: "ANONYMOUS"} }, "554 5.7.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := build(t, Config{Networks: prefixes("10.0.0.0/8", "2001:db8:1::/48")}, map[List]string{})
			tx := transaction("s@sender.example", "x@other.example")
			tt.client(&tx.Client)
			d := f.chain.Session().Evaluate(t.Context(), tx)
			if got := outcome(d); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if !d.Refused && d.PermittedBy == "" {
				t.Error("nobody granted the relaying")
			}
		})
	}
}

func TestSubmissionDefaults(t *testing.T) {
	t.Parallel()
	f := &fixture{}
	chain, err := Build(Config{Networks: prefixes("0.0.0.0/0")}, DefaultSubmission(), deps(f))
	if err != nil {
		t.Fatal(err)
	}
	alice := &mail.Identity{Authentication: "alice", Mechanism: "PLAIN"}
	for _, tt := range []struct {
		name, from, to string
		identity       *mail.Identity
		want           string
	}{
		{"own address to anywhere", "alice@example.com", "x@other.example", alice, "ok"},
		{"shared address", "info@example.com", "x@other.example", alice, "ok"},
		{"somebody else's", "bob@example.com", "x@other.example", alice, "553 5.7.1 <bob@example.com>: Sender address rejected: not owned by user alice"},
		{"a foreign one", "x@other.example", "x@other.example", alice, "553 5.7.1"},
		{"null reverse-path", "", "x@other.example", alice, "ok"},
		{"directory down", "carol@example.com", "x@other.example", alice, "451 4.4.3"},
		{"not logged in", "x@other.example", "alice@example.com", nil, "554 5.7.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tx := transaction(tt.from, tt.to)
			tx.Client.Identity = tt.identity
			if got := outcome(chain.Session().Evaluate(t.Context(), tx)); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
