package policy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/mail"
)

func writeTable(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestAccessKeys holds the order in which keys are looked for: each table is
// searched for an address, and the text of the answer names the key.
func TestAccessKeys(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, check, table, from, to, helo, host, ip, want string
	}{
		{"full address with extension first", "check_recipient_access", "alice+news@example.com 550 1\nalice@example.com 550 2\nexample.com 550 3", "", "Alice+News@Example.com", "", "", "", "1"},
		{"then without", "check_recipient_access", "alice@example.com 550 2\nexample.com 550 3\nalice+news@ 550 4", "", "alice+news@example.com", "", "", "", "2"},
		{"then the domain", "check_recipient_access", "example.com 550 3\nalice+news@ 550 4\nalice@ 550 5", "", "alice+news@example.com", "", "", "", "3"},
		{"then the parent with a dot", "check_recipient_access", ".example.com 550 3\nexample.com 550 4\nalice@ 550 5", "", "alice@a.b.example.com", "", "", "", "3"},
		{"then the parent without", "check_recipient_access", "example.com 550 4\nalice@ 550 5", "", "alice@a.b.example.com", "", "", "", "4"},
		{"the nearest parent", "check_recipient_access", ".example.com 550 1\n.b.example.com 550 2", "", "alice@a.b.example.com", "", "", "", "2"},
		{"a parent with a dot is not the domain", "check_recipient_access", ".example.com 550 1", "", "alice@example.com", "", "", "", ""},
		{"then the local-part with extension", "check_recipient_access", "alice+news@ 550 4\nalice@ 550 5", "", "alice+news@example.com", "", "", "", "4"},
		{"then without", "check_recipient_access", "alice@ 550 5", "", "alice+news@example.com", "", "", "", "5"},
		{"quoted local-part", "check_recipient_access", "\"john doe\"@example.com 550 1", "", `"John Doe"@example.com`, "", "", "", "1"},
		{"quoted local-part, internal form", "check_recipient_access", "a..b@example.com 550 1", "", `"a..b"@example.com`, "", "", "", "1"},
		{"null reverse-path", "check_sender_access", "<> 550 1", "", "", "", "", "", "1"},
		{"the null reverse-path has no other key", "check_sender_access", "@ 550 1\nexample.com 550 1", "", "", "", "", "", ""},
		{"domain beyond ASCII", "check_sender_access", "bücher.example 550 1", "a@xn--bcher-kva.example", "", "", "", "", "1"},

		{"helo name", "check_helo_access", "mail.bad.example 550 1\nbad.example 550 2", "", "", "MAIL.bad.example", "", "", "1"},
		{"helo parent", "check_helo_access", "bad.example 550 2", "", "", "mail.bad.example", "", "", "2"},
		{"helo literal", "check_helo_access", "[192.0.2.1] 550 3", "", "", "[192.0.2.1]", "", "", "3"},

		{"client name before address", "check_client_access", "client.example 550 1\n198.51.100.7 550 2", "", "", "", "client.example", "", "1"},
		{"client parent before address", "check_client_access", "example 550 1\n198.51.100.7 550 2", "", "", "", "client.example", "", "1"},
		{"client unknown", "check_client_access", "unknown 550 1", "", "", "", "", "", "1"},
		{"client address", "check_client_access", "198.51.100.7 550 1\n198.51.100 550 2", "", "", "", "c.example", "", "1"},
		{"client network of three octets", "check_client_access", "198.51.100 550 2\n198.51 550 3", "", "", "", "c.example", "", "2"},
		{"client network of one octet", "check_client_access", "198 550 4", "", "", "", "c.example", "", "4"},
		{"client IPv6", "check_client_access", "2001:db8:7 550 1\n2001:db8 550 2", "", "", "", "c.example", "[2001:db8:7::1]:25", "1"},
		{"client IPv6, shorter", "check_client_access", "2001:db8 550 2", "", "", "", "c.example", "[2001:db8:7::1]:25", "2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := build(t, Config{}, map[List]string{ListSender: tt.check + "(table=texthash:" + writeTable(t, tt.table) + ")"})
			to := tt.to
			if to == "" {
				to = "alice@example.com"
			}
			tx := transaction(tt.from, to)
			if tt.helo != "" {
				tx.Client.Helo = tt.helo
			}
			tx.Client.Hostname = tt.host
			if tt.ip != "" {
				tx.Client.Remote = addrPort(tt.ip)
			}
			d := f.chain.Session().Evaluate(t.Context(), tx)
			got := ""
			if d.Refused && d.Verdict.Stage == tt.check {
				text := d.Verdict.WireReply().Text
				got = text[strings.LastIndexByte(text, ' ')+1:]
			}
			if got != tt.want {
				t.Errorf("got key %q, want %q (%s)", got, tt.want, outcome(d))
			}
		})
	}
}

func TestDottedSubdomains(t *testing.T) {
	t.Parallel()
	table := writeTable(t, "bad.example REJECT\n.worse.example REJECT\n")
	f := &fixture{}
	spec := Spec{Name: "check_sender_access", Args: map[string][]string{"table": {table}, "subdomains": {"dotted"}}}
	chain, err := Build(Config{}, map[List][]Spec{ListSender: {spec}}, deps(f))
	if err != nil {
		t.Fatal(err)
	}
	for from, refused := range map[string]bool{"a@bad.example": true, "a@sub.bad.example": false, "a@worse.example": false, "a@sub.worse.example": true} {
		if d := chain.Session().Evaluate(t.Context(), transaction(from, "alice@example.com")); d.Refused != refused {
			t.Errorf("%s: refused %t, want %t", from, d.Refused, refused)
		}
	}
}

func TestAccessActions(t *testing.T) {
	t.Parallel()
	const about = "<s@sender.example>: Sender address rejected: "
	for _, tt := range []struct{ action, want string }{
		{"OK", "ok"},
		{"ok whatever", "ok"},
		{"RELAY", "ok"},
		{"12345", "ok"},
		{"DUNNO", "554 5.7.1 no"},
		{"REJECT", "554 5.7.1 " + about + "Access denied"},
		{"reject Go away", "554 5.7.1 " + about + "Go away"},
		{"REJECT 5.1.1 Go away", "554 5.1.7 " + about + "Go away"},
		{"DEFER", "450 4.7.1 " + about + "Access denied"},
		{"DEFER\tbusy", "450 4.7.1 " + about + "busy"},
		{"550", "550 5.7.1 " + about + "Access denied"},
		{"550 gone", "550 5.7.1 " + about + "gone"},
		{"550 5.1.6 moved", "550 5.1.7 " + about + "moved"},
		{"450 5.7.9 odd", "450 4.7.9 " + about + "odd"},
		{"521 bye", "521 5.7.1 " + about + "bye"},
		{"DEFER_IF_PERMIT", "554 5.7.1 no"},
		{"DEFER_IF_REJECT wait", "450 4.7.1 " + about + "wait"},
		{"WARN look", "554 5.7.1 no"},
		{"INFO", "554 5.7.1 no"},
		{"FILTER scan:[127.0.0.1]:10024", "554 5.7.1 no"},
		{"REDIRECT alice@example.com", "554 5.7.1 no"},
		{"BCC alice@example.com", "554 5.7.1 no"},
		{"HANGUP", "421 4.7.0 Connection dropped"},
		{"tough", "554 5.7.1 " + about + "Access denied"},
		{"tough, permit", "554 5.7.1 " + about + "Access denied"},
		{"gentle", "554 5.7.1 no"},
		{"HOLD", "554 5.7.1 no"},
		{"DISCARD", "ok"},
		{"PREPEND X-Spam: yes", "554 5.7.1 no"},
		{"permit_mynetworks, reject", "554 5.7.1 " + about + "Access denied"},
		{"warn_if_reject reject", "554 5.7.1 no"},
		{"permit", "ok"},
		{"reject_non_fqdn_sender", "554 5.7.1 no"},
		{"reject_unlisted_recipient", "554 5.7.1 no"},
	} {
		t.Run(tt.action, func(t *testing.T) {
			t.Parallel()
			classes := []Class{{Name: "tough", Specs: words("reject")}, {Name: "Gentle", Specs: words("warn_if_reject tough")}}
			f := build(t, Config{Classes: classes}, map[List]string{ListSender: "check_sender_access(table=" + writeTable(t, "sender.example "+tt.action) + ") no"})
			if got := outcome(f.chain.Session().Evaluate(t.Context(), transaction("s@sender.example", "alice@example.com"))); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestAccessEffects(t *testing.T) {
	t.Parallel()
	table := writeTable(t, "a@sender.example HOLD why not\nb@sender.example PREPEND X-Spam: yes, very\nc@sender.example WARN look\n"+
		"d@sender.example FILTER scan:[127.0.0.1]:10024\ne@sender.example REDIRECT trap@example.com\nf@sender.example BCC archive@example.com\ng@sender.example INFO so\n")
	f := build(t, Config{}, map[List]string{ListSender: "check_sender_access(table=" + table + ")"})
	evaluate := func(from string) mail.Decision {
		return f.chain.Session().Evaluate(t.Context(), transaction(from, "alice@example.com"))
	}
	if d := evaluate("a@sender.example"); !d.Hold {
		t.Error("not held")
	}
	if d := evaluate("b@sender.example"); len(d.Headers) != 1 || d.Headers[0] != "X-Spam: yes, very" {
		t.Errorf("headers %q", d.Headers)
	}
	evaluate("c@sender.example")
	if d := evaluate("d@sender.example"); len(d.Envelope) != 1 || *d.Envelope[0].Route != (mail.Route{Transport: "scan", NextHop: "[127.0.0.1]:10024"}) {
		t.Errorf("filter %+v", d.Envelope)
	}
	if d := evaluate("e@sender.example"); len(d.Envelope) != 1 || d.Envelope[0].Redirect.String() != "trap@example.com" {
		t.Errorf("redirect %+v", d.Envelope)
	}
	if d := evaluate("f@sender.example"); len(d.Envelope) != 1 || d.Envelope[0].Copy.String() != "archive@example.com" {
		t.Errorf("copy %+v", d.Envelope)
	}
	evaluate("g@sender.example")
	const by = ":check_sender_access"
	if got, want := f.audit.results(), "held"+by+" warned"+by+" filtered"+by+" redirected"+by+" copied"+by+" informed"+by; got != want {
		t.Errorf("audit %q, want %q", got, want)
	}
	if got, want := f.audit.events[2].Detail, "<d@sender.example>: Sender address triggers FILTER scan:[127.0.0.1]:10024"; got != want {
		t.Errorf("detail %q, want %q", got, want)
	}
}

func TestCIDRTables(t *testing.T) {
	t.Parallel()
	table := writeTable(t, `# the first match decides
192.0.2.128/25	REJECT upper half
192.0.2.0/24	OK
192.0.2.1	REJECT never reached
2001:db8::/32	450 4.7.1 six
`)
	f := build(t, Config{}, map[List]string{ListClient: "check_client_access(table=cidr:" + table + ") no"})
	for ip, want := range map[string]string{
		"192.0.2.200:1":          "upper half",
		"192.0.2.1:1":            "ok",
		"[::ffff:192.0.2.200]:1": "upper half",
		"[2001:db8::7]:1":        "six",
		"198.51.100.1:1":         "554 5.7.1 no",
	} {
		tx := transaction("s@sender.example", "alice@example.com")
		tx.Client.Remote = addrPort(ip)
		if got := outcome(f.chain.Session().Evaluate(t.Context(), tx)); !strings.HasSuffix(got, want) {
			t.Errorf("%s: got %s, want %s", ip, got, want)
		}
	}
}

func TestTableMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, kind, content, want string }{
		{"everything at once", "texthash", "a@b.example\nc@d.example FOO\na.example REJECT\na.example OK\n", ":1: \"a@b.example\" stands for nothing;:2: unknown restriction \"FOO\";:4: \"a.example\" stands at line 3 already"},
		{"continuation without a line", "texthash", "  REJECT\n", ":1: the first line begins with white space"},
		{"control character", "texthash", "a.example REJECT a\x01b\n", ":1: control character"},
		{"not UTF-8", "texthash", "a.example REJECT \xff\n", "not valid UTF-8"},
		{"code that does not refuse", "texthash", "a.example 250 fine\n", ":1: 250 is not a reply code that refuses"},
		{"header without a name", "texthash", "a.example PREPEND oops\n", ":1: PREPEND needs a header field"},
		{"filter to nowhere", "texthash", "a.example FILTER nowhere:x\n", ":1: FILTER: there is no target \"nowhere\""},
		{"filter without a route", "texthash", "a.example FILTER :\n", "names neither a target nor a next hop"},
		{"filter of nothing", "texthash", "a.example FILTER\n", ":1: FILTER says not where to"},
		{"redirect to a name", "texthash", "a.example REDIRECT postmaster\n", ":1: REDIRECT: "},
		{"copy to no address", "texthash", "a.example BCC a@b@c\n", ":1: BCC: "},
		{"a sleep too long", "texthash", "a.example sleep 600\n", ":1: sleep has \"600\" seconds"},
		{"a table in a table", "texthash", "a.example check_sender_access\n", ":1: check_sender_access needs a table"},
		{"misspelt restriction", "texthash", "a.example permit_mynetwork\n", "did you mean permit_mynetworks?"},
		{"not a network", "cidr", "\n192.0.2.1/33 OK\n", ":2: \"192.0.2.1/33\" is not an address or network"},
		{"host bits", "cidr", "192.0.2.1/24 OK\n", ":1: 192.0.2.1/24 has host bits set: the network is 192.0.2.0/24"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := writeTable(t, tt.content)
			_, err := Build(Config{}, map[List][]Spec{ListClient: words("check_client_access(table=" + tt.kind + ":" + file + ")")}, deps(&fixture{}))
			var mistakes Mistakes
			if !errors.As(err, &mistakes) {
				t.Fatalf("error %v, want Mistakes", err)
			}
			wants := strings.Split(tt.want, ";")
			if len(mistakes) != len(wants) {
				t.Errorf("%d mistakes, want %d: %v", len(mistakes), len(wants), err)
			}
			for _, want := range wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v\nwant %s", err, want)
				}
			}
		})
	}
}

func TestTableSyntax(t *testing.T) {
	t.Parallel()
	file := writeTable(t, "# comment\n\na.example REJECT one\n  two\n# between\n\tthree\n   \nb.example\n  OK\r\n")
	f := build(t, Config{}, map[List]string{ListSender: "check_sender_access(table=" + file + ") no"})
	got := outcome(f.chain.Session().Evaluate(t.Context(), transaction("x@a.example", "alice@example.com")))
	if !strings.HasSuffix(got, ": one  two three") {
		t.Errorf("got %s", got)
	}
	if got := outcome(f.chain.Session().Evaluate(t.Context(), transaction("x@b.example", "alice@example.com"))); got != "ok" {
		t.Errorf("got %s", got)
	}
}

func TestTablesFollowTheirFiles(t *testing.T) {
	t.Parallel()
	file := writeTable(t, "sender.example REJECT first\n")
	f := build(t, Config{TableCheck: time.Millisecond}, map[List]string{ListSender: "check_sender_access(table=" + file + ")"})
	evaluate := func() string {
		return outcome(f.chain.Session().Evaluate(t.Context(), transaction("s@sender.example", "alice@example.com")))
	}
	replace := func(content string) {
		next := file + ".new"
		if err := os.WriteFile(next, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, file); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error)
	go func() { done <- f.chain.Run(t.Context()) }()
	becomes := func(want string) {
		t.Helper()
		deadline := time.After(time.Minute)
		for !strings.HasSuffix(evaluate(), want) {
			select {
			case <-deadline:
				t.Fatalf("Run did not notice the change to %q", want)
			case err := <-done:
				t.Fatalf("Run ended: %v", err)
			case <-time.After(time.Millisecond):
			}
		}
	}
	replace("sender.example REJECT second\n")
	becomes("second")
	replace("sender.example NONSENSE\n")
	for range 30 { // a broken table changes nothing
		<-time.After(time.Millisecond)
		becomes("second")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	becomes("second")
	replace("sender.example REJECT third\n")
	becomes("third")
}

func TestAccessWithoutItsTableDefers(t *testing.T) {
	t.Parallel()
	a := &access{name: "check_sender_access", about: aboutSender, source: nil}
	_, err := a.Evaluate(t.Context(), transaction("s@sender.example", "alice@example.com"))
	if v := outage(aboutSender, transaction("s@sender.example", ""), err); err == nil || v.WireReply().String() != "451 4.3.5 <s@sender.example>: Sender address rejected: Server configuration error" {
		t.Errorf("%v: %s", err, v.WireReply())
	}
}
