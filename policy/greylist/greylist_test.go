package greylist

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/shared"
	"github.com/postern-mail/postern/store/memory"
	"github.com/postern-mail/postern/table"
)

func openStore(t *testing.T, disk *memory.Disk) *shared.Store {
	t.Helper()
	kv, _ := disk.Open()
	return shared.Open(t.Context(), kv, nil, hclog.NewNullLogger())
}

func stage(t *testing.T, cfg Config, lists *Lists) *Stage {
	t.Helper()
	s, err := New(cfg, lists, &table.Opener{Log: hclog.NewNullLogger()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// attempt is what a client does: address, sender, recipient.
func attempt(ip, from, to string) *mail.Transaction {
	tx := &mail.Transaction{Phase: mail.PhaseRecipient, Recipient: &mail.Recipient{Address: mail.MustAddress(to)}}
	tx.Client.Remote = netip.AddrPortFrom(netip.MustParseAddr(ip), 4711)
	if from != "" {
		tx.Envelope.ReversePath = mail.MustAddress(from)
	}
	return tx
}

// ask returns "pass", "pass 300" for mail that waited so long, or the seconds to
// wait.
func ask(t *testing.T, s *Stage, tx *mail.Transaction) string {
	t.Helper()
	v, err := s.Evaluate(context.Background(), tx)
	if err != nil {
		return err.Error()
	}
	if v.Action == mail.DeferIfPermit {
		reply := v.WireReply()
		if reply.Code != 450 || reply.EnhancedString() != "4.2.0" {
			t.Errorf("the reply is %s", reply)
		}
		var seconds int
		_, text, _ := strings.Cut(reply.Text, ": Recipient address rejected: ")
		if _, err := fmt.Sscanf(text, "Greylisted, try again in %d seconds", &seconds); err != nil {
			t.Errorf("the text is %q", reply.Text)
		}
		return fmt.Sprint(seconds)
	}
	tx.Findings = append(tx.Findings, v.Findings...)
	if len(v.Edits) > 0 {
		return "pass, " + v.Edits[0].PrependHeader
	}
	return "pass"
}

const (
	from = "sender@example.org"
	to   = "alice@example.com"
)

func TestWhoComesAgainPasses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := stage(t, Config{Header: true}, Open(openStore(t, memory.NewDisk()), 0))
		step := func(want, ip, from, to string) {
			t.Helper()
			if got := ask(t, s, attempt(ip, from, to)); got != want {
				t.Errorf("%s %s %s: %s, want %s", ip, from, to, got, want)
			}
		}
		step("300", "192.0.2.1", from, to)
		time.Sleep(100 * time.Second)
		step("200", "192.0.2.1", from, to)
		time.Sleep(199500 * time.Millisecond)
		step("1", "192.0.2.1", from, to)
		step("300", "192.0.2.1", "other@example.org", to)
		step("300", "192.0.2.1", from, "bob@example.com")
		step("300", "192.0.3.1", from, to)
		step("300", "192.0.2.1", "", to)
		time.Sleep(1500 * time.Millisecond)
		step("pass, X-Greylist: delayed 301 seconds", "192.0.2.254", "SENDER@Example.org", "ALICE@example.com")
		step("pass", "192.0.2.7", from, to)
		// After the window a repetition is a first attempt.
		step("300", "2001:db8::1", from, to)
		time.Sleep(48*time.Hour + time.Second)
		step("300", "2001:db8::ffff", from, to)
		// Who passed is known for 35 days after the last time.
		time.Sleep(30 * 24 * time.Hour)
		step("pass", "192.0.2.1", from, to)
		time.Sleep(34 * 24 * time.Hour)
		step("pass", "192.0.2.1", from, to)
		time.Sleep(36 * 24 * time.Hour)
		step("300", "192.0.2.1", from, to)
	})
}

func TestOneHeaderAMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := stage(t, Config{Header: true}, Open(openStore(t, memory.NewDisk()), 0))
		tx := attempt("192.0.2.1", from, to)
		for range 2 {
			headers := 0
			for i := range 5 {
				tx.Recipient = &mail.Recipient{Address: mail.MustAddress(fmt.Sprintf("r%d@example.com", i))}
				if strings.Contains(ask(t, s, tx), "X-Greylist") {
					headers++
				}
				time.Sleep(time.Second)
			}
			time.Sleep(5 * time.Minute)
			if want := len(tx.Findings); headers != want {
				t.Errorf("%d headers, want %d", headers, want)
			}
		}
	})
}

func TestAClientThatPassesOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lists := Open(openStore(t, memory.NewDisk()), 0)
		s := stage(t, Config{AutoAllow: 3}, lists)
		// Many recipients of one message are one pass.
		round := func(n int) {
			for _, wait := range []time.Duration{0, 6 * time.Minute} {
				time.Sleep(wait)
				for i := range 10 {
					ask(t, s, attempt("192.0.2.1", fmt.Sprintf("%s@example.org", strings.Repeat("x", n)), fmt.Sprintf("%c@example.com", 'a'+i)))
				}
			}
			time.Sleep(2 * time.Hour)
		}
		for n := 1; n <= 3; n++ {
			if got := ask(t, s, attempt("192.0.2.9", "new@example.net", to)); n == 1 && got != "300" {
				t.Errorf("in round %d: %s", n, got)
			}
			round(n)
		}
		if got := ask(t, s, attempt("192.0.2.200", "never@seen.example", to)); got != "pass" {
			t.Errorf("a client that passed in three hours still waits: %s", got)
		}
		if got := ask(t, stage(t, Config{}, lists), attempt("192.0.2.200", "never@seen.example", to)); got != "300" {
			t.Errorf("without auto_allow: %s", got)
		}
	})
}

func TestWhoNeverWaits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg := Config{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, PassSPF: true, Pools: []string{"Google.com"},
		Clients:    []string{"texthash:" + write("clients", "partner.example ok\n"), "cidr:" + write("nets", "203.0.113.0/24 ok\n198.51.100.0/24 no\n")},
		Recipients: []string{"texthash:" + write("recipients", "sales@example.com ok\nopen.example.com ok\n")},
	}
	login := attempt("192.0.2.1", from, to)
	login.Client.Identity = &mail.Identity{Authentication: "alice", Mechanism: "PLAIN"}
	anonymous := attempt("192.0.2.1", from, to)
	anonymous.Client.Identity = &mail.Identity{Authentication: "anonymous", Mechanism: "ANONYMOUS"}
	spf := attempt("192.0.2.1", from, to)
	spf.Findings = []mail.Finding{{Method: "spf", Result: "pass"}}
	softfail := attempt("192.0.2.1", from, to)
	softfail.Findings = []mail.Finding{{Method: "spf", Result: "softfail"}}
	named := func(name string) *mail.Transaction {
		tx := attempt("192.0.2.1", from, to)
		tx.Client.Hostname = name
		return tx
	}
	noRecipient := attempt("192.0.2.1", from, to)
	noRecipient.Recipient = nil
	for name, tt := range map[string]struct {
		tx   *mail.Transaction
		want string
	}{
		"a stranger":               {attempt("192.0.2.1", from, to), "300"},
		"our networks":             {attempt("10.1.2.3", from, to), "pass"},
		"our networks as IPv6":     {attempt("::ffff:10.1.2.3", from, to), "pass"},
		"a login":                  {login, "pass"},
		"an anonymous login":       {anonymous, "300"},
		"SPF passed":               {spf, "pass"},
		"SPF failed softly":        {softfail, "300"},
		"a client by name":         {named("mx1.partner.example"), "pass"},
		"a client by network":      {attempt("203.0.113.9", from, to), "pass"},
		"a client the table wants": {attempt("198.51.100.9", from, to), "300"},
		"a recipient":              {attempt("192.0.2.1", from, "Sales+x@example.com"), "pass"},
		"a domain":                 {attempt("192.0.2.1", from, "x@open.example.com"), "pass"},
		"postmaster":               {attempt("192.0.2.1", from, "Postmaster@example.com"), "pass"},
		"abuse":                    {attempt("192.0.2.1", from, "abuse@example.com"), "pass"},
		"no recipient":             {noRecipient, "pass"},
	} {
		s := stage(t, cfg, Open(openStore(t, memory.NewDisk()), 0))
		if got := ask(t, s, tt.tx); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestPoolsTryFromAnywhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := stage(t, Config{Pools: DefaultPools()}, Open(openStore(t, memory.NewDisk()), 0))
		tx := attempt("192.0.2.1", from, to)
		tx.Client.Hostname = "mail-ej1-f44.Google.com"
		if got := ask(t, s, tx); got != "300" {
			t.Errorf("first: %s", got)
		}
		time.Sleep(6 * time.Minute)
		again := attempt("203.0.113.77", from, to)
		again.Client.Hostname = "mail-pf1-f1.google.com"
		if got := ask(t, s, again); got != "pass" {
			t.Errorf("again from elsewhere: %s", got)
		}
		other := attempt("203.0.113.77", from, to)
		other.Client.Hostname = "notgoogle.com"
		if got := ask(t, s, other); got != "300" {
			t.Errorf("another domain: %s", got)
		}
	})
}

func TestSendersThatChange(t *testing.T) {
	t.Parallel()
	cfg := Config{}.withDefaults()
	for _, same := range [][]string{
		{"list-return-4711-alice=example.com@lists.example", "list-return-4712-alice=example.com@lists.example"},
		{"SRS0=a1bC=XY=example.net=bob@fwd.example", "SRS0=9ZZ+=XZ=example.net=bob@fwd.example"},
		{"SRS1=a1=first.example==b2=XY=example.net=bob@fwd.example", "SRS1=zz=first.example==c3=AA=example.net=bob@fwd.example"},
		{"prvs=0123456789=bob@example.net", "prvs=9876543210=bob@example.net"},
		{"bob+list@example.net", "Bob+other@EXAMPLE.net"},
		{"0100018f2a-7c3e-4b1d-9f00-aa11bb22cc33-000000@amazonses.example", "0100018f77-aaaa1-4bbb1-9fff-bb11bb22cc33-000000@amazonses.example"},
		{"bounces+abcdefghijklmnopqrstuvwxyzabc@x.example", "bounces+zyxwvutsrqponmlkjihgfedcbazyx@x.example"},
	} {
		a, b := cfg.senderOf(mail.MustAddress(same[0])), cfg.senderOf(mail.MustAddress(same[1]))
		if a == b {
			continue
		}
		if strings.Count(a, "#") == 0 {
			t.Errorf("%s and %s are %q and %q", same[0], same[1], a, b)
		}
	}
	if a, b := cfg.senderOf(mail.MustAddress("SRS0=a1bC=XY=example.net=bob@fwd.example")), cfg.senderOf(mail.MustAddress("SRS0=q=XY=example.net=eve@fwd.example")); a == b {
		t.Errorf("two senders are one: %q", a)
	}
	if got := cfg.senderOf(mail.Address{}); got != "<>" {
		t.Errorf("the null reverse-path is %q", got)
	}
}

func TestRestartAndPeersKnow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := memory.NewDisk()
		store := openStore(t, disk)
		s := stage(t, Config{}, Open(store, 0))
		ask(t, s, attempt("192.0.2.1", from, to))
		if err := store.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Minute)
		s = stage(t, Config{}, Open(openStore(t, disk), 0))
		if got := ask(t, s, attempt("192.0.2.1", from, to)); got != "pass" {
			t.Errorf("after a restart: %s", got)
		}
		// Two gateways that both saw a first attempt: the earlier one counts.
		a, b := mark{at: time.UnixMilli(1000)}.encode(), mark{at: time.UnixMilli(2000), count: 3}.encode()
		if got := decode(earlier(b, a)); got.at.UnixMilli() != 1000 {
			t.Errorf("the earlier is %v", got)
		}
		if got := decode(later(b, a)); got.at.UnixMilli() != 2000 || got.count != 3 {
			t.Errorf("the later is %v", got)
		}
		if got := decode(later([]byte("junk"), a)); got.at.UnixMilli() != 1000 {
			t.Errorf("junk is %v", got)
		}
	})
}

func TestAFloodIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lists := Open(openStore(t, memory.NewDisk()), 100)
		s := stage(t, Config{AutoAllow: 5}, lists)
		ask(t, s, attempt("192.0.2.1", from, to))
		time.Sleep(6 * time.Minute)
		ask(t, s, attempt("192.0.2.1", from, to))
		for i := range 5000 {
			ask(t, s, attempt(fmt.Sprintf("198.51.%d.1", i%250), fmt.Sprintf("y%s@flood.example", strings.Repeat("y", i%20)), fmt.Sprintf("r%c%c@example.com", 'a'+i%26, 'a'+i/26%26)))
		}
		if n := lists.Sizes(); n.Waiting > 100 || n.Evicted == 0 {
			t.Errorf("%+v", n)
		}
		if got := ask(t, s, attempt("192.0.2.1", from, to)); got != "pass" {
			t.Errorf("a flood of first attempts pushed out who passed: %s", got)
		}
	})
}

func TestNothingIsPutOffWhileNothingIsKept(t *testing.T) {
	t.Parallel()
	store := shared.Open(t.Context(), nil, errors.New("damaged"), hclog.NewNullLogger())
	s := stage(t, Config{}, Open(store, 0))
	if got := ask(t, s, attempt("192.0.2.1", from, to)); got != "pass" {
		t.Errorf("without a store: %s", got)
	}
}

func TestOperators(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lists := Open(openStore(t, memory.NewDisk()), 0)
		s := stage(t, Config{}, lists)
		ask(t, s, attempt("192.0.2.1", from, to))
		ask(t, s, attempt("203.0.113.1", from, to))
		time.Sleep(6 * time.Minute)
		ask(t, s, attempt("192.0.2.1", from, to))
		lists.Allow("198.51.100.0/24", time.Now().Add(time.Hour))
		var got []string
		lists.Range(func(e Entry) bool {
			got = append(got, fmt.Sprint(e.State, " ", e.Client, " ", e.Sender, " ", e.Count))
			return true
		})
		want := []string{
			"client 192.0.2.0/24  1", "allowed 198.51.100.0/24  0", "passed 192.0.2.0/24 sender@example.org 1", "waiting 203.0.113.0/24 sender@example.org 0",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		if got := ask(t, s, attempt("198.51.100.77", from, to)); got != "pass" {
			t.Errorf("an allowed client: %s", got)
		}
		if n := lists.Delete(func(e Entry) bool { return e.Client == "192.0.2.0/24" || e.State == Allowed }); n != 3 {
			t.Errorf("%d deleted", n)
		}
		for _, ip := range []string{"192.0.2.1", "198.51.100.1"} {
			if got := ask(t, s, attempt(ip, from, to)); got != "300" {
				t.Errorf("deleted, %s: %s", ip, got)
			}
		}
	})
}

func TestAttributes(t *testing.T) {
	t.Parallel()
	spec := func(name string, values ...string) policy.Spec {
		return policy.Spec{Name: Name, Args: map[string][]string{name: values}}
	}
	base := Config{Delay: time.Minute, Header: true}
	c, err := base.With(policy.Spec{Args: map[string][]string{
		"delay": {"10m"}, "window": {"3d"}, "networks": {"10.0.0.0/8"}, "header": {"false"}, "pools": {"a", "b"}, "ipv4_bits": {"32"}, "text": {"wait"},
		"lifetime": {"30d"}, "auto_allow": {"7"}, "pass_spf": {"true"}, "clients": {"x"}, "recipients": {"y"}, "ipv6_bits": {"56"}, "on_error": {"dunno"},
	}})
	if err != nil || c.Delay != 10*time.Minute || c.Window != 72*time.Hour || c.Header || len(c.Networks) != 1 || len(c.Pools) != 2 || c.AutoAllow != 7 || !c.PassSPF {
		t.Errorf("%+v, %v", c, err)
	}
	for want, wrong := range map[string]policy.Spec{
		"no time":       spec("delay", "soon"),
		"not between":   spec("delay", "25h"),
		"ends before":   spec("window", "30s"),
		"shorter than":  spec("lifetime", "1h"),
		"no number":     spec("ipv4_bits", "many"),
		"/8 and /32":    spec("ipv4_bits", "33"),
		"/16 and /128":  spec("ipv6_bits", "4"),
		"neither":       spec("header", "perhaps"),
		"does not know": spec("dealy", "5m"),
		"below 0":       spec("auto_allow", "-1"),
		"10.0.0.0/33":   spec("networks", "10.0.0.0/33"),
	} {
		if _, err := base.With(wrong); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", wrong.Args, err, want)
		}
	}
}

func FuzzSender(f *testing.F) {
	f.Add("SRS0=a=b=c=d", "example.com")
	f.Add("srs1=", "x")
	f.Add("a+b", "x")
	cfg := Config{}.withDefaults()
	f.Fuzz(func(t *testing.T, local, domain string) {
		got := cfg.senderOf(mail.Address{Local: mail.LocalPart(local), Domain: mail.Domain(domain)})
		if len(got) > 3*(len(local)+len(domain))+8 {
			t.Errorf("%q is %d octets", local, len(got))
		}
	})
}

// TestRehearsal: who only asks what would happen is told, and not remembered.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lists := Open(openStore(t, memory.NewDisk()), 0)
		s := stage(t, Config{}, lists)
		tx := attempt("192.0.2.1", "a@far.example", "alice@example.com")
		would := func() string {
			v, err := s.Evaluate(policy.Rehearsal(t.Context()), tx)
			if err != nil {
				t.Fatal(err)
			}
			return v.Action.String()
		}
		for range 2 {
			if got := would(); got != "defer_if_permit" {
				t.Errorf("at first: %s", got)
			}
			time.Sleep(time.Hour)
		}
		lists.Range(func(e Entry) bool { t.Errorf("remembered %+v", e); return true })
		ask(t, s, tx)
		time.Sleep(time.Hour)
		if got := would(); got != "dunno" {
			t.Errorf("after an hour: %s", got)
		}
		if got := ask(t, s, tx); got != "pass" {
			t.Errorf("then: %s", got)
		}
	})
}
