package policy

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

func TestClasses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		classes map[string]string
		lists   map[List]string
		want    string
	}{
		{"a class speaks of its list", map[string]string{"strict": "reject"}, map[List]string{ListSender: "strict"},
			"554 5.7.1 <s@sender.example>: Sender address rejected: Access denied"},
		{"and of another one", map[string]string{"strict": "reject"}, map[List]string{ListClient: "strict"},
			"554 5.7.1 <client.example[198.51.100.7]>: Client host rejected: Access denied"},
		{"its outage, too", map[string]string{"strict": "down"}, map[List]string{ListHelo: "strict"},
			"451 4.4.3 <client.example>: Directory temporarily unavailable"},
		{"a permit inside ends the list", map[string]string{"mild": "dunno yes"}, map[List]string{ListRecipient: "mild no"}, "ok"},
		{"the end of a class is no decision", map[string]string{"mild": "dunno"}, map[List]string{ListRecipient: "mild no"}, "554 5.7.1 no"},
		{"classes in classes", map[string]string{"a": "b", "b": "c", "c": "no"}, map[List]string{ListRecipient: "a"}, "554 5.7.1 no"},
		{"names have any letter case", map[string]string{"Strict": "no"}, map[List]string{ListRecipient: "STRICT"}, "554 5.7.1 no"},
		{"only a warning", map[string]string{"strict": "dunno no"}, map[List]string{ListRecipient: "warn_if_reject strict"}, "ok"},
		{"flags rise from inside", map[string]string{"flag": "dip"}, map[List]string{ListRecipient: "flag"}, "450 4.7.0 dip"},
		{"a class can guard the relay", map[string]string{"ours": "reject_unauth_destination"}, map[List]string{ListRelay: "permit_mynetworks ours"}, "ok"},
		{"on_error is the class's restrictions'", map[string]string{"x": "down(on_error=dunno)"}, map[List]string{ListRecipient: "x"}, "ok"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var classes []Class
			for name, list := range tt.classes {
				classes = append(classes, Class{Name: name, Specs: words(list)})
			}
			f := build(t, Config{Classes: classes}, tt.lists)
			if got := outcome(f.chain.Session().Evaluate(t.Context(), transaction("s@sender.example", "alice@example.com"))); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestClassMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		classes []Class
		lists   map[List]string
		want    string
	}{
		{"a circle", []Class{{Name: "a", Specs: words("b")}, {Name: "b", Specs: words("dunno a")}}, nil, "the restriction class a leads back to itself"},
		{"a name of ours", []Class{{Name: "Reject"}}, nil, `"Reject" is a restriction already`},
		{"a name of another room's", []Class{{Name: "dunno"}}, nil, `"dunno" is a restriction already`},
		{"an action", []Class{{Name: "hold"}}, nil, `"hold" is a restriction already`},
		{"no name", []Class{{Name: "a b"}}, nil, `"a b" is no name`},
		{"twice", []Class{{Name: "a"}, {Name: "A"}}, nil, "defined twice"},
		{"an unknown restriction in it", []Class{{Name: "a", Specs: words("permit_mynetwork")}}, nil, "did you mean permit_mynetworks?"},
		{"a guard that only warns", []Class{{Name: "ours", Specs: words("reject_unauth_destination")}}, map[List]string{ListRelay: "warn_if_reject ours"}, "anybody could relay"},
		{"a guard behind a permit", []Class{{Name: "ours", Specs: words("permit")}}, map[List]string{ListRelay: "ours reject_unauth_destination"}, "anybody could relay"},
		{"an attribute", []Class{{Name: "a"}}, map[List]string{ListRecipient: "a(table=x)"}, `a does not know the attribute "table"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lists := map[List][]Spec{}
			for name, list := range tt.lists {
				lists[name] = words(list)
			}
			_, err := Build(Config{Classes: tt.classes}, lists, deps(&fixture{}))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// TestClassTooEarly: a class is no way around what a restriction has to know.
func TestClassTooEarly(t *testing.T) {
	t.Parallel()
	classes := []Class{{Name: "inner", Specs: words("reject_unlisted_sender")}, {Name: "outer", Specs: words("inner")}}
	_, err := Build(Config{EarlyReject: true, Classes: classes}, map[List][]Spec{ListClient: words("outer")}, deps(&fixture{}))
	if err == nil || !strings.Contains(err.Error(), "outer is asked before the client has said what it needs") {
		t.Errorf("got %v", err)
	}
}

// TestTablesAndClassesInCircles: a class with a table whose lines name the
// class is found out when it is asked, and stopped.
func TestTablesAndClassesInCircles(t *testing.T) {
	t.Parallel()
	file := writeTable(t, "sender.example round\n")
	classes := []Class{{Name: "round", Specs: words("check_sender_access(table=" + file + ")")}}
	f := build(t, Config{Classes: classes}, map[List]string{ListSender: "round"})
	d := f.chain.Session().Evaluate(t.Context(), transaction("s@sender.example", "alice@example.com"))
	if got, want := outcome(d), "451 4.3.5 <s@sender.example>: Sender address rejected: Server configuration error"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestCheckAccess: a table in a class is asked about what the list is about, as
// Postfix's lists do with a table that stands alone.
func TestCheckAccess(t *testing.T) {
	t.Parallel()
	file := writeTable(t, "sender.example 550 sender\nexample.com 550 recipient\nclient.example 550 client\nhelo.example 550 helo\n")
	classes := []Class{{Name: "mine", Specs: words("check_access(table=" + file + ")")}}
	for list, want := range map[List]string{
		ListClient:    "550 5.7.1 <client.example[198.51.100.7]>: Client host rejected: client",
		ListHelo:      "550 5.7.1 <helo.example>: Helo command rejected: helo",
		ListSender:    "550 5.7.1 <s@sender.example>: Sender address rejected: sender",
		ListRecipient: "550 5.7.1 <alice@example.com>: Recipient address rejected: recipient",
	} {
		for _, restriction := range []string{"mine", "check_access(table=" + file + ")"} {
			f := build(t, Config{Classes: classes}, map[List]string{list: restriction})
			tx := transaction("s@sender.example", "alice@example.com")
			tx.Client.Helo = "helo.example"
			if got := outcome(f.chain.Session().Evaluate(t.Context(), tx)); got != want {
				t.Errorf("%s in %s:\ngot  %s\nwant %s", restriction, list, got, want)
			}
		}
	}
	_, err := Build(Config{}, map[List][]Spec{ListData: words("check_access(table=" + file + ")")}, deps(&fixture{}))
	if err == nil || !strings.Contains(err.Error(), "has nothing to look up in this list") {
		t.Errorf("got %v", err)
	}
}

func TestOwnWords(t *testing.T) {
	t.Parallel()
	file := writeTable(t, "sender.example REJECT\nlater.example DEFER\nfixed.example 550 fixed\n")
	for _, tt := range []struct{ list, from, want string }{
		{"reject(code=521)", "s@sender.example", "521 5.7.1 <s@sender.example>: Sender address rejected: Access denied"},
		{"reject(code=450&text=Later)", "s@sender.example", "450 4.7.1 <s@sender.example>: Sender address rejected: Later"},
		{"defer(code=451)", "s@sender.example", "451 4.3.2 <s@sender.example>: Sender address rejected: Try again later"},
		{"reject_non_fqdn_sender(code=554)", "s@host", "554 5.5.2 <s@host>: Sender address rejected: need fully-qualified address"},
		{"reject_plaintext_session(code=530)", "s@host", "530 5.7.1 Session encryption is required"},
		{"check_sender_access(table=" + file + "&reject_code=571&defer_code=421)", "s@sender.example", "571 5.7.1 <s@sender.example>: Sender address rejected: Access denied"},
		{"check_sender_access(table=" + file + "&reject_code=571&defer_code=421)", "s@later.example", "421 4.7.1 <s@later.example>: Sender address rejected: Access denied"},
		{"check_sender_access(table=" + file + "&reject_code=571)", "s@fixed.example", "550 5.7.1 <s@fixed.example>: Sender address rejected: fixed"},
	} {
		f := build(t, Config{}, map[List]string{ListSender: tt.list})
		if got := outcome(f.chain.Session().Evaluate(t.Context(), transaction(tt.from, "alice@example.com"))); got != tt.want {
			t.Errorf("%s\ngot  %s\nwant %s", tt.list, got, tt.want)
		}
	}
	_, err := Build(Config{}, map[List][]Spec{ListSender: words("reject(code=250)")}, deps(&fixture{}))
	if err == nil || !strings.Contains(err.Error(), `code of reject is "250"`) {
		t.Errorf("got %v", err)
	}
}

func TestSleep(t *testing.T) {
	t.Parallel()
	file := writeTable(t, "sender.example sleep 7, reject\n")
	synctest.Test(t, func(t *testing.T) {
		f := build(t, Config{Timeout: time.Second}, map[List]string{ListClient: "sleep(seconds=5) sleep(seconds=50s)", ListSender: "check_sender_access(table=" + file + ")"})
		began := time.Now()
		d := f.chain.Session().Evaluate(t.Context(), transaction("s@sender.example", "alice@example.com"))
		if got, want := outcome(d), "554 5.7.1 <s@sender.example>: Sender address rejected: Access denied"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if took := time.Since(began); took != 62*time.Second {
			t.Errorf("slept %s", took)
		}
	})
}

func TestLoginAccess(t *testing.T) {
	t.Parallel()
	f := build(t, Config{}, map[List]string{ListSender: "check_sasl_access(table=" + writeTable(t, "alice REJECT 5.1.1 not today\n") + ")"})
	tx := transaction("s@sender.example", "alice@example.com")
	if got := outcome(f.chain.Session().Evaluate(t.Context(), tx)); got != "ok" {
		t.Errorf("nobody logged in: %s", got)
	}
	tx.Client.Identity = &mail.Identity{Authentication: "Alice", Mechanism: "PLAIN"}
	if got, want := outcome(f.chain.Session().Evaluate(t.Context(), tx)), "554 5.0.0 <Alice>: SASL login name rejected: not today"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPipeliningInData(t *testing.T) {
	t.Parallel()
	f := build(t, Config{}, map[List]string{ListData: "reject_unauth_pipelining"})
	tx := transaction("s@sender.example", "")
	tx.Phase = mail.PhaseData
	for _, tt := range []struct {
		hasty func() bool
		want  string
	}{
		{nil, "ok"},
		{func() bool { return false }, "ok"},
		{func() bool { return true }, "503 5.5.0 <DATA>: Data command rejected: Improper use of SMTP command pipelining"},
	} {
		tx.Client.Hasty = tt.hasty
		if got := outcome(f.chain.Session().Evaluate(t.Context(), tx)); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestInterfaces(t *testing.T) {
	t.Parallel()
	f := build(t, Config{}, map[List]string{ListClient: "permit_inet_interfaces no"})
	for remote, want := range map[string]string{"127.0.0.1:99": "ok", "198.51.100.7:99": "554 5.7.1 no", "203.0.113.9:99": "ok"} {
		tx := transaction("s@sender.example", "alice@example.com")
		tx.Client.Remote, tx.Client.Local = addrPort(remote), addrPort("203.0.113.9:25")
		if got := outcome(f.chain.Session().Evaluate(t.Context(), tx)); got != want {
			t.Errorf("%s: got %s, want %s", remote, got, want)
		}
	}
}

// TestBrokenTable: a table that does not answer makes the client wait, whatever
// it is asked about, and warn_if_reject does not change that.
func TestBrokenTable(t *testing.T) {
	t.Parallel()
	for list, restrictions := range map[List][]string{
		ListClient:    {"check_client_access"},
		ListHelo:      {"check_helo_access"},
		ListSender:    {"check_sender_access", "check_access"},
		ListRecipient: {"check_recipient_access"},
	} {
		for _, name := range restrictions {
			f := build(t, Config{}, map[List]string{list: "warn_if_reject " + name + "(table=fail:down)"})
			d := f.chain.Session().Evaluate(t.Context(), transaction("s@sender.example", "alice@example.com"))
			if got := outcome(d); !strings.HasPrefix(got, "451 4.3.5 ") || !strings.HasSuffix(got, "Server configuration error") || d.Verdict.Reason != status.ConfigurationError {
				t.Errorf("%s: %s", name, got)
			}
		}
	}
	var mistakes Mistakes
	if _, err := Build(Config{}, map[List][]Spec{ListSender: words("check_sender_access(table=texthash:/nonexistent)")}, deps(&fixture{})); !errors.As(err, &mistakes) {
		t.Errorf("got %v", err)
	}
}
