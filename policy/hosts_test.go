package policy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// zone is a Resolver: what it does not hold does not exist, names in servfail
// and timeout cannot be learned.
type zone map[string][]string // "MX a.example." -> hosts, addresses

func (z zone) look(kind, name string) ([]string, error) {
	switch {
	case strings.Contains(name, "servfail"):
		return nil, &net.DNSError{Err: "server failure", Name: name, IsTemporary: true}
	case strings.Contains(name, "timeout"):
		return nil, &net.DNSError{Err: "no answer", Name: name, IsTemporary: true, IsTimeout: true}
	case len(z[kind+" "+name]) == 0:
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return z[kind+" "+name], nil
}

func (z zone) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	hosts, err := z.look("MX", name)
	var all []*net.MX
	for i, host := range hosts {
		all = append(all, &net.MX{Host: host, Pref: uint16(10 * i)})
	}
	return all, err
}

func (z zone) LookupNS(_ context.Context, name string) ([]*net.NS, error) {
	hosts, err := z.look("NS", name)
	var all []*net.NS
	for _, host := range hosts {
		all = append(all, &net.NS{Host: host})
	}
	return all, err
}

func (z zone) LookupNetIP(_ context.Context, _, name string) ([]netip.Addr, error) {
	addresses, err := z.look("A", name)
	var all []netip.Addr
	for _, a := range addresses {
		all = append(all, netip.MustParseAddr(a))
	}
	return all, err
}

// withZone builds a chain that asks z, with list as the sender's, and relays for everybody. The
// word TABLE in it stands for a table of these lines.
func withZone(t *testing.T, z zone, list, lines string) (*fixture, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	f := &fixture{}
	d := deps(f)
	d.Resolver = z
	d.OurAddress = func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.25") }
	chain, err := Build(Config{AcceptUnlisted: true, Hostname: "mx.example.com"},
		map[List][]Spec{
			ListSender: words(strings.ReplaceAll(list, "TABLE", path)),
			ListRelay:  words("permit_mynetworks(networks=0.0.0.0/0) reject_unauth_destination"),
		}, d)
	f.chain = chain
	return f, err
}

var hostZone = zone{
	"MX mx.example.":     {"mail.mx.example."},
	"A mail.mx.example.": {"192.0.2.50"},
	"A only.example.":    {"192.0.2.51"},
	"MX nullmx.example.": {"."},
	"MX lost.example.":   {"gone.lost.example.", "mail.mx.example."},
	"MX half.example.":   {"host.servfail.example.", "mail.mx.example."},
	"MX ip.example.":     {"192.0.2.50."},
	"NS bad.example.":    {"ns.evil.example."},
	"A ns.evil.example.": {"2001:db8::66"},
}

// TestHostAccess holds each restriction on hosts against its rows: found by
// name, by address, as a literal, not found, null MX, and a DNS in trouble,
// which is not held against anybody.
func TestHostAccess(t *testing.T) {
	t.Parallel()
	const lines = "192.0.2.50 REJECT address\n192.0.2.51 REJECT itself\n192.0.2.77 REJECT literal\nmail.mx.example REJECT name\n" +
		"2001:db8::66 REJECT v6\nevil.example DUNNO\nother.evil.example REJECT\n"
	for _, tt := range []struct {
		restriction, subject, want, warned string
	}{
		{"mx", "mx.example", "name", ""},
		{"mx", "only.example", "itself", ""},
		{"mx", "ip.example", "address", ""},
		{"mx", "lost.example", "name", ""},
		{"mx", "half.example", "name", ""},
		{"mx", "nowhere.example", "", "unable to look up MX host nowhere.example: "},
		{"mx", "nullmx.example", "", ""},
		{"mx", "servfail.example", "", "unable to look up MX host for servfail.example: "},
		{"mx", "timeout.example", "", "unable to look up MX host for timeout.example: "},
		{"a", "mail.mx.example", "address", ""}, // not the name
		{"a", "mx.example", "", ""},
		{"a", "servfail.example", "", ""},
		{"ns", "a.b.bad.example", "", ""}, // DUNNO for the host ends the search
		{"ns", "mx.example", "", ""},
		{"ns", "x.servfail.example", "", "unable to look up NS host for x.servfail.example: "},
	} {
		for what, edit := range map[string]func(*mail.Transaction){
			"client":                  func(tx *mail.Transaction) { tx.Client.Hostname = tt.subject },
			"reverse_client_hostname": func(tx *mail.Transaction) { tx.Client.ReverseName = tt.subject },
			"helo":                    func(tx *mail.Transaction) { tx.Client.Helo = tt.subject },
			"sender":                  func(tx *mail.Transaction) { tx.Envelope.ReversePath = mail.MustAddress("a@" + tt.subject) },
			"recipient": func(tx *mail.Transaction) {
				tx.Recipient = &mail.Recipient{Address: mail.MustAddress("a@" + tt.subject)}
			},
		} {
			subject := map[string]string{
				"client": "<" + tt.subject + "[198.51.100.7]>: Client host", "reverse_client_hostname": "<" + tt.subject + ">: Unverified Client host",
				"helo": "<" + tt.subject + ">: Helo command", "sender": "<a@" + tt.subject + ">: Sender address", "recipient": "<a@" + tt.subject + ">: Recipient address",
			}[what]
			name := "check_" + what + "_" + tt.restriction + "_access"
			f, err := withZone(t, hostZone, name+"(table=TABLE)", lines)
			if err != nil {
				t.Fatal(err)
			}
			tx := transaction("s@sender.example", "bob@example.com")
			edit(tx)
			want := "ok"
			if tt.want != "" {
				want = "554 5.7.1 " + subject + " rejected: " + tt.want
			}
			s := f.chain.Session()
			if got := outcome(s.Evaluate(t.Context(), tx)); got != want {
				t.Errorf("%s of %s: %s, want %s", name, tt.subject, got, want)
			}
			if detail := detailOf(s, name); tt.warned != "" && !strings.HasPrefix(detail, tt.warned) {
				t.Errorf("%s of %s: warned %q, want %q", name, tt.subject, detail, tt.warned)
			}
		}
	}
}

func detailOf(s *Session, stage string) string {
	for _, step := range s.Steps() {
		if step.Stage == stage {
			return step.Detail
		}
	}
	return ""
}

// TestHostAccessLiterals: an address in place of a name is looked for itself.
func TestHostAccessLiterals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, helo, from, want string }{
		{"check_helo_mx_access", "[192.0.2.77]", "a@b.example", "554 5.7.1 <[192.0.2.77]>: Helo command rejected: literal"},
		{"check_helo_a_access", "192.0.2.77", "a@b.example", "554 5.7.1 <192.0.2.77>: Helo command rejected: literal"},
		{"check_helo_ns_access", "[192.0.2.77]", "a@b.example", "ok"},
		{"check_helo_mx_access", "[IPv6:2001:db8::66]", "a@b.example", "554 5.7.1 <[IPv6:2001:db8::66]>: Helo command rejected: v6"},
		{"check_helo_a_access", "", "a@b.example", "ok"},
		{"check_helo_a_access", "foo..bar", "a@b.example", "ok"},
		{"check_sender_mx_access", "", "a@[192.0.2.77]", "554 5.7.1 <a@[192.0.2.77]>: Sender address rejected: literal"},
		{"check_sender_mx_access", "", "", "ok"},
		{"check_sender_ns_access", "", "a@[192.0.2.77]", "ok"},
	} {
		f, err := withZone(t, hostZone, tt.name+"(table=TABLE)", "192.0.2.77 REJECT literal\n2001:db8::66 REJECT v6\n")
		if err != nil {
			t.Fatal(err)
		}
		tx := transaction(tt.from, "bob@example.com")
		tx.Client.Helo = tt.helo
		if got := outcome(f.chain.Session().Evaluate(t.Context(), tx)); got != tt.want {
			t.Errorf("%s of %q %q: %s, want %s", tt.name, tt.helo, tt.from, got, tt.want)
		}
	}
}

// TestHostAccessMustNotPermit: a line that permits is a mistake when the table
// is read, and a refusal with 451 where only the look-up shows it.
func TestHostAccessMustNotPermit(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"check_sender_mx_access", "check_reverse_client_hostname_access", "check_client_a_access"} {
		_, err := withZone(t, hostZone, name+"(table=TABLE)", "mail.mx.example OK\n")
		if err == nil || !strings.Contains(err.Error(), "would permit what strangers name in the DNS") {
			t.Errorf("%s: %v", name, err)
		}
		f, err := withZone(t, hostZone, name+"(table=TABLE)", "192.0.2.50 permit_mynetworks, permit\nmx.example permit\n198.51.100.7 permit\n")
		if err != nil {
			t.Fatal(err)
		}
		tx := transaction("a@mx.example", "bob@example.com")
		tx.Client.Hostname, tx.Client.ReverseName = "mail.mx.example", "mail.mx.example"
		if got := outcome(f.chain.Session().Evaluate(t.Context(), tx)); got != "451 4.3.5 Server configuration error" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestHostAccessIsBounded: a domain with more addresses than anybody needs is
// looked at up to the limit, and no further.
func TestHostAccessIsBounded(t *testing.T) {
	t.Parallel()
	z := zone{}
	for i := range 150 {
		host := fmt.Sprintf("h%d.many.example.", i)
		z["MX many.example."] = append(z["MX many.example."], host)
		z["A "+host] = []string{fmt.Sprintf("198.51.100.%d", i), fmt.Sprintf("203.0.113.%d", i)}
	}
	for line, want := range map[string]string{
		"203.0.113.49 REJECT last": "554 5.7.1 <a@many.example>: Sender address rejected: last",
		"198.51.100.50 REJECT far": "ok",
		"h120.many.example REJECT": "ok",
	} {
		f, err := withZone(t, z, "check_sender_mx_access(table=TABLE)", line+"\n")
		if err != nil {
			t.Fatal(err)
		}
		if got := outcome(f.chain.Session().Evaluate(t.Context(), transaction("a@many.example", "bob@example.com"))); got != want {
			t.Errorf("%s: %s", line, got)
		}
	}
}

// TestReverseNameAccess looks the unverified name up, and then the address.
func TestReverseNameAccess(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name mail.ClientName
		want string
	}{
		{mail.ClientName{Reverse: "dyn.isp.example", Naming: mail.NameForged}, "554 5.7.1 <dyn.isp.example>: Unverified Client host rejected: dynamic"},
		{mail.ClientName{Reverse: "other.example", Naming: mail.NameForged}, "554 5.7.1 <other.example>: Unverified Client host rejected: network"},
		{mail.ClientName{Naming: mail.NameMissing}, "554 5.7.1 <unknown>: Unverified Client host rejected: nameless"},
		{mail.ClientName{}, "451 4.3.5 <unknown>: Unverified Client host rejected: Server configuration error"},
	} {
		f, err := withZone(t, hostZone, "check_reverse_client_hostname_access(table=TABLE)", "isp.example REJECT dynamic\n198.51.100 REJECT network\nunknown REJECT nameless\n")
		if err != nil {
			t.Fatal(err)
		}
		tx := transaction("a@b.example", "bob@example.com")
		tx.Client.SetName(tt.name)
		if got := outcome(f.chain.Session().Evaluate(t.Context(), tx)); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestUnknownHelo holds the rows of reject_unknown_helo_hostname, with the
// operator's code, which never makes an outage permanent.
func TestUnknownHelo(t *testing.T) {
	t.Parallel()
	const missing, ours = "450 4.7.1 <%s>: Helo command rejected: Host not found", "550 5.7.1 <%s>: Helo command rejected: Host not found"
	for _, tt := range []struct{ attributes, helo, want string }{
		{"", "mx.example", "ok"},
		{"", "only.example", "ok"},
		{"", "nullmx.example", "ok"},
		{"", "[192.0.2.1]", "ok"},
		{"", "", "ok"},
		{"", "nowhere.example", missing},
		{"", "foo..bar", missing},
		{"", "192.0.2.1", missing},
		{"", "[192.0.2]", "501 5.5.2 <[192.0.2]>: Helo command rejected: invalid ip address"},
		{"", "servfail.example", missing},
		{"", "timeout.example", missing},
		{"(code=550)", "nowhere.example", ours},
		{"(code=550)", "servfail.example", missing},
		{"(code=550&tempfail_action=defer)", "servfail.example", missing},
		{"(tempfail_action=defer)", "timeout.example", missing},
	} {
		f, err := withZone(t, hostZone, "reject_unknown_helo_hostname"+tt.attributes, "")
		if err != nil {
			t.Fatal(err)
		}
		tx := transaction("a@b.example", "bob@example.com")
		tx.Client.Helo = tt.helo
		want := tt.want
		if strings.Contains(want, "%s") {
			want = fmt.Sprintf(want, tt.helo)
		}
		if got := outcome(f.chain.Session().Evaluate(t.Context(), tx)); got != want {
			t.Errorf("%q of %q: %s, want %s", tt.attributes, tt.helo, got, want)
		}
	}
}

// TestBackup holds the rows of permit_mx_backup.
func TestBackup(t *testing.T) {
	t.Parallel()
	z := zone{
		"MX backup.example.":  {"first.example.", "mx.example.com."},
		"MX byaddr.example.":  {"first.example.", "us.example."},
		"MX primary.example.": {"mx.example.com.", "first.example."},
		"MX other.example.":   {"first.example.", "second.example."},
		"MX nullmx.example.":  {"."},
		"A first.example.":    {"203.0.113.1"}, "A us.example.": {"192.0.2.25"}, "A usonly.example.": {"192.0.2.25"},
	}
	const denied = "554 5.7.1"
	for _, tt := range []struct{ attributes, to, want string }{
		{"", "a@backup.example", "ok"},
		{"", "a@byaddr.example", "ok"},
		{"", "a%b@backup.example", denied},
		{"", "a@primary.example", denied},
		{"", "a@other.example", denied},
		{"", "a@nullmx.example", denied},
		{"", "a@usonly.example", denied},
		{"", "a@nowhere.example", denied},
		{"", "a@example.com", "ok"},
		{"", "a@relayed.example", "ok"},
		{"", "a@servfail.example", "450 4.4.4 <a@servfail.example>: Recipient address rejected: Unable to look up mail exchanger information: Host not found, try again"},
		{"(networks=203.0.113.0/24)", "a@backup.example", "ok"},
		{"(networks=198.51.100.0/24)", "a@backup.example", denied},
	} {
		f, err := withZone(t, z, "permit_mx_backup"+tt.attributes+" reject", "")
		if err != nil {
			t.Fatal(err)
		}
		if got := outcome(f.chain.Session().Evaluate(t.Context(), transaction("s@sender.example", tt.to))); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%q of %s: %s, want %s", tt.attributes, tt.to, got, tt.want)
		}
	}
}
