package policy

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

func TestEvaluation(t *testing.T) {
	t.Parallel()
	const safe = "reject_unauth_destination"
	for _, tt := range []struct {
		name  string
		lists map[List]string
		to    string
		want  string
		audit string
	}{
		{"the end of a list permits", map[List]string{ListRecipient: "dunno"}, "alice@example.com", "ok", ""},
		{"the first decision ends a list", map[List]string{ListRecipient: "yes no"}, "alice@example.com", "ok", ""},
		{"a rejection ends it too", map[List]string{ListRecipient: "no yes"}, "alice@example.com", "554 5.7.1 no", "refused:no"},
		{"OK in an earlier list does not grant relaying", map[List]string{ListClient: "permit", ListSender: "yes"}, "x@other.example",
			"554 5.7.1 <x@other.example>: Relay access denied", "refused:reject_unauth_destination"},
		{"OK for relaying does not end the recipient list", map[List]string{ListRelay: "permit", ListRecipient: "no reject_unauth_destination"}, "x@other.example",
			"554 5.7.1 no", "refused:no"},
		{"OK in the recipient list leaves the relay list in force", map[List]string{ListRecipient: "yes"}, "x@other.example",
			"554 5.7.1 <x@other.example>: Relay access denied", "refused:reject_unauth_destination"},
		{"client before helo before sender", map[List]string{ListClient: "dunno", ListHelo: "no550", ListSender: "no"}, "alice@example.com",
			"550 5.7.1 no550", "refused:no550"},
		{"the unlisted are refused though the list permits", map[List]string{ListRecipient: "yes"}, "nobody@example.com",
			"550 5.1.1 <nobody@example.com>: Recipient address rejected: User unknown", "refused:reject_unlisted_recipient"},
		{"postmaster without a domain passes everything", map[List]string{ListClient: "no", ListRecipient: "no"}, "PostMaster", "ok", ""},
		{"a domain's postmaster always exists", map[List]string{}, "postmaster@example.com", "ok", ""},

		{"defer_if_permit defers what would pass", map[List]string{ListRecipient: "dip"}, "alice@example.com", "450 4.7.0 dip", "deferred:dip"},
		{"defer_if_permit defers an explicit permit", map[List]string{ListRecipient: "dip yes"}, "alice@example.com", "450 4.7.0 dip", "deferred:dip"},
		{"defer_if_permit is inherited by later lists", map[List]string{ListClient: "dip"}, "alice@example.com", "450 4.7.0 dip", "deferred:dip"},
		{"the first reason is kept", map[List]string{ListClient: "dip2", ListSender: "dip"}, "alice@example.com", "451 4.7.0 dip2", "deferred:dip2"},
		{"a later rejection wins over defer_if_permit", map[List]string{ListClient: "dip", ListRecipient: "no"}, "alice@example.com", "554 5.7.1 no", "refused:no"},
		{"the implied check does not", map[List]string{ListRecipient: "dip"}, "nobody@example.com", "450 4.7.0 dip", "deferred:dip"},
		{"defer_if_reject softens a rejection", map[List]string{ListRecipient: "dir no"}, "alice@example.com", "450 4.7.0 dir", "deferred:dir"},
		{"defer_if_reject softens the implied check", map[List]string{ListRecipient: "dir"}, "nobody@example.com", "450 4.7.0 dir", "deferred:dir"},
		{"defer_if_reject alone lets pass", map[List]string{ListRecipient: "dir"}, "alice@example.com", "ok", ""},
		{"defer_if_reject ends with its list", map[List]string{ListSender: "dir", ListRecipient: "no"}, "alice@example.com", "554 5.7.1 no", "refused:no"},
		{"defer_if_reject leaves a 4xx alone", map[List]string{ListRecipient: "dir later"}, "alice@example.com", "450 4.7.1 later", "deferred:later"},
		{"both flags end the list", map[List]string{ListRecipient: "dip dir no"}, "alice@example.com", "450 4.7.0 dip", "deferred:dip"},

		{"warn_if_reject lets pass", map[List]string{ListRecipient: "warn_if_reject no"}, "alice@example.com", "ok", "warned:no"},
		{"warn_if_reject is for one restriction", map[List]string{ListRecipient: "warn_if_reject no no550"}, "alice@example.com", "550 5.7.1 no550", "warned:no refused:no550"},
		{"warn_if_reject keeps defer_if_permit down", map[List]string{ListRecipient: "warn_if_reject dip"}, "alice@example.com", "ok", "warned:dip"},
		{"warn_if_reject does not hide our outage", map[List]string{ListRecipient: "warn_if_reject down"}, "alice@example.com",
			"451 4.4.3 <alice@example.com>: Directory temporarily unavailable", "deferred:down"},
		{"warn_if_reject does not open the relay", map[List]string{ListRelay: "warn_if_reject reject_unauth_destination reject_unauth_destination"}, "x@other.example",
			"554 5.7.1 <x@other.example>: Relay access denied", "warned:reject_unauth_destination refused:reject_unauth_destination"},

		{"a broken stage defers", map[List]string{ListRecipient: "halfedited"}, "alice@example.com",
			"451 4.3.0 <alice@example.com>: Temporary lookup failure", "deferred:halfedited"},
		{"a broken stage defers whatever its error claims", map[List]string{ListRecipient: "lies5xx"}, "alice@example.com",
			"451 4.3.0 <alice@example.com>: Temporary lookup failure", "deferred:lies5xx"},
		{"a broken stage that may be overlooked", map[List]string{ListRecipient: "down(on_error=dunno)"}, "alice@example.com", "ok", ""},
		{"a broken stage that defers unless rejected", map[List]string{ListRecipient: "down(on_error=defer_if_permit) no"}, "alice@example.com", "554 5.7.1 no", "refused:no"},
		{"and defers when nothing rejects", map[List]string{ListRecipient: "down(on_error=defer_if_permit)"}, "alice@example.com",
			"451 4.4.3 <alice@example.com>: Directory temporarily unavailable", "deferred:down"},

		{"discard permits and ends everything, the relay check included", map[List]string{ListSender: "discard no", ListRecipient: "no"}, "x@other.example", "ok", "discarded:discard"},
		{"hold goes on", map[List]string{ListSender: "hold no"}, "alice@example.com", "554 5.7.1 no", "held:hold refused:no"},

		{"reject speaks of what the list is about", map[List]string{ListClient: "reject"}, "alice@example.com",
			"554 5.7.1 <client.example[198.51.100.7]>: Client host rejected: Access denied", "refused:reject"},
		{"in the helo list", map[List]string{ListHelo: "reject"}, "alice@example.com", "554 5.7.1 <client.example>: Helo command rejected: Access denied", "refused:reject"},
		{"in the sender list", map[List]string{ListSender: "defer"}, "alice@example.com", "450 4.3.2 <s@sender.example>: Sender address rejected: Try again later", "deferred:defer"},
		{"in the relay list", map[List]string{ListRelay: "defer_if_permit"}, "alice@example.com",
			"450 4.7.0 <alice@example.com>: Recipient address rejected: defer_if_permit requested", "deferred:defer_if_permit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, ok := tt.lists[ListRelay]; !ok {
				tt.lists[ListRelay] = safe
			}
			f := build(t, Config{}, tt.lists)
			d := f.chain.Session().Evaluate(t.Context(), transaction("s@sender.example", tt.to))
			if got := outcome(d); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if got := f.audit.results(); got != tt.audit {
				t.Errorf("audit: got %q, want %q", got, tt.audit)
			}
		})
	}
}

func TestAuditNamesTheDecision(t *testing.T) {
	t.Parallel()
	f := build(t, Config{}, map[List]string{})
	tx := transaction("s@sender.example", "nobody@example.com")
	tx.Client.Identity = &mail.Identity{Authentication: "eve"}
	tx.QueueID = "Q1"
	f.chain.Session().Evaluate(t.Context(), tx)
	if len(f.audit.events) != 1 {
		t.Fatalf("%d events, want 1", len(f.audit.events))
	}
	e := f.audit.events[0]
	if e.Kind != mail.EventPolicy || e.Stage != "reject_unlisted_recipient" || e.Phase != "recipient" || e.Reason != "NoSuchUser" ||
		!strings.HasPrefix(e.Reply, "550 5.1.1 ") || e.Session != "s1" || e.Queue != "Q1" || e.Login != "eve" ||
		e.From.String() != "s@sender.example" || len(e.To) != 1 || e.Service != "mx" || e.Remote != tx.Client.Remote {
		t.Errorf("event %+v", e)
	}
}

func TestDirectoryIsAskedOncePerRecipient(t *testing.T) {
	t.Parallel()
	f := build(t, Config{}, map[List]string{ListRecipient: "reject_unlisted_recipient reject_unlisted_recipient"})
	d := f.chain.Session().Evaluate(t.Context(), transaction("s@sender.example", "staff@example.com"))
	if d.Refused || len(d.Resolved) != 2 {
		t.Fatalf("decision %+v, want two recipients", d)
	}
	if f.directory.asked != 1 {
		t.Errorf("the directory was asked %d times, want once", f.directory.asked)
	}
}

func TestUnlistedSenderDoesNotStandInForTheRecipient(t *testing.T) {
	t.Parallel()
	f := build(t, Config{RejectUnlistedSender: true}, map[List]string{})
	d := f.chain.Session().Evaluate(t.Context(), transaction("bob@example.com", "alice@example.com"))
	if d.Refused || len(d.Resolved) != 1 || d.Resolved[0].Address.Local != "alice" {
		t.Fatalf("decision %+v", d)
	}
	d = f.chain.Session().Evaluate(t.Context(), transaction("nobody@example.com", "alice@example.com"))
	if got, want := outcome(d), "550 5.1.0 <nobody@example.com>: Sender address rejected: User unknown"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEffectsAreOfTheMessage(t *testing.T) {
	t.Parallel()
	f := build(t, Config{}, map[List]string{ListSender: "prepend hold", ListRelay: "reject_unauth_destination"})
	s := f.chain.Session()
	mailFrom := func() mail.Decision {
		tx := transaction("s@sender.example", "")
		tx.Phase = mail.PhaseMail
		return s.Evaluate(t.Context(), tx)
	}
	mailFrom()
	if d := s.Evaluate(t.Context(), transaction("s@sender.example", "nobody@example.com")); !d.Refused {
		t.Fatal("the unlisted recipient passed")
	}
	data := transaction("s@sender.example", "")
	data.Phase = mail.PhaseData
	if d := s.Evaluate(t.Context(), data); d.Hold || len(d.Headers) != 0 {
		t.Errorf("a refused recipient left its mark: %+v", d)
	}
	if d := s.Evaluate(t.Context(), transaction("s@sender.example", "alice@example.com")); !d.Hold {
		t.Fatalf("alice: %+v", d)
	}
	s.Undo() // there was no room for her
	if d := s.Evaluate(t.Context(), data); d.Hold || len(d.Headers) != 0 {
		t.Errorf("a recipient refused later left its mark: %+v", d)
	}
	for _, to := range []string{"alice@example.com", "bob@example.com"} {
		if d := s.Evaluate(t.Context(), transaction("s@sender.example", to)); d.Refused {
			t.Fatalf("%s: %s", to, outcome(d))
		}
	}
	if d := s.Evaluate(t.Context(), data); !d.Hold || len(d.Headers) != 1 || d.Headers[0] != "X-One: 1" {
		t.Errorf("at DATA: %+v, want held, with one header", d)
	}
	if d := mailFrom(); d.Hold || len(d.Headers) != 0 {
		t.Errorf("the next transaction inherited %+v", d)
	}
}

func TestDiscardLastsForTheTransaction(t *testing.T) {
	t.Parallel()
	f := build(t, Config{}, map[List]string{ListSender: "discard", ListData: "no"})
	s := f.chain.Session()
	if d := s.Evaluate(t.Context(), transaction("s@sender.example", "x@other.example")); d.Refused || !d.Discard {
		t.Fatalf("RCPT: %+v", d)
	}
	data := transaction("s@sender.example", "")
	data.Phase = mail.PhaseData
	if d := s.Evaluate(t.Context(), data); d.Refused || !d.Discard {
		t.Fatalf("DATA: %+v", d)
	}
	if got := f.audit.results(); got != "discarded:discard" {
		t.Errorf("audit %q", got)
	}
}

func TestListsRunAtEachRecipientUnlessEarly(t *testing.T) {
	t.Parallel()
	dialogue := func(f *fixture) []string {
		s := f.chain.Session()
		var got []string
		for _, phase := range []mail.Phase{mail.PhaseConnect, mail.PhaseHelo, mail.PhaseMail, mail.PhaseRecipient, mail.PhaseRecipient} {
			to := ""
			if phase == mail.PhaseRecipient {
				to = "alice@example.com"
			}
			tx := transaction("s@sender.example", to)
			tx.Phase = phase
			got = append(got, strings.Fields(outcome(s.Evaluate(t.Context(), tx)))[0])
		}
		return got
	}
	late := build(t, Config{}, map[List]string{ListClient: "counted", ListHelo: "dunno", ListSender: "no"})
	if got, want := strings.Join(dialogue(late), " "), "ok ok ok 554 554"; got != want || late.asked != 2 {
		t.Errorf("late: got %s asked %d, want %s asked 2", got, late.asked, want)
	}
	early := build(t, Config{EarlyReject: true}, map[List]string{ListClient: "counted", ListHelo: "dip", ListSender: "no"})
	if got, want := strings.Join(dialogue(early), " "), "ok ok 554 450 450"; got != want || early.asked != 1 {
		t.Errorf("early: got %s asked %d, want %s asked 1", got, early.asked, want)
	}
}

func TestRecipientBeforeRelay(t *testing.T) {
	t.Parallel()
	lists := map[List]string{ListRelay: "reject_unauth_destination", ListRecipient: "no550"}
	after := build(t, Config{RecipientBeforeRelay: true}, lists)
	if got := outcome(after.chain.Session().Evaluate(t.Context(), transaction("", "x@other.example"))); got != "550 5.7.1 no550" {
		t.Errorf("got %s", got)
	}
	unlisted := build(t, Config{RecipientBeforeRelay: true}, map[List]string{ListRelay: "reject_unauth_destination", ListRecipient: "yes"})
	if got := outcome(unlisted.chain.Session().Evaluate(t.Context(), transaction("", "nobody@example.com"))); !strings.HasPrefix(got, "550 5.1.1") {
		t.Errorf("got %s", got)
	}
}

func TestDataWithSeveralRecipientsHasNone(t *testing.T) {
	t.Parallel()
	f := build(t, Config{}, map[List]string{ListData: "reject_unauth_destination reject_non_fqdn_recipient reject_multi_recipient_bounce"})
	tx := transaction("", "")
	tx.Phase = mail.PhaseData
	tx.Envelope.Recipients = []mail.Recipient{{}, {}}
	if got, want := outcome(f.chain.Session().Evaluate(t.Context(), tx)), "550 5.5.3 <DATA>: Data command rejected: Multi-recipient bounce"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestReplyComposition(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 400)
	for _, tt := range []struct {
		name string
		give status.Reply
		utf8 bool
		want string
	}{
		{"class follows the code", status.Reply{Code: 450, Enhanced: [3]int{5, 7, 1}, Text: "x"}, false, "450 4.7.1 x"},
		{"a code that does not refuse", status.Reply{Code: 250, Enhanced: [3]int{2, 0, 0}, Text: "x"}, false, "450 4.7.1 x"},
		{"no code", status.Reply{Text: "x"}, false, "450 4.7.1 x"},
		{"controls and lines", status.Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: "a\r\nb\x00c"}, false, "550 5.7.1 a  b c"},
		{"octets above 127", status.Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: "é\xff"}, false, "550 5.7.1 ??"},
		{"octets above 127 with SMTPUTF8", status.Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: "é\xff"}, true, "550 5.7.1 é?"},
		{"length", status.Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: long}, true, "550 5.7.1 " + strings.Repeat("é", 250)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := wire(mail.Verdict{Action: mail.Reject, Reply: &tt.give}, tt.utf8)
			if got.String() != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if len(got.String()) > maxReplyOctets {
				t.Errorf("%d octets", len(got.String()))
			}
		})
	}
}

func TestEnhancedCodeFollowsTheSubject(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		about      subject
		give, want int
	}{
		{aboutSender, 1, 7}, {aboutSender, 3, 7}, {aboutSender, 4, 7}, {aboutSender, 6, 7}, {aboutSender, 2, 8}, {aboutSender, 5, 0},
		{aboutSender, 7, 7}, {aboutSender, 8, 8}, {aboutSender, 42, 0},
		{aboutRecipient, 7, 3}, {aboutRecipient, 8, 2}, {aboutRecipient, 1, 1}, {aboutRecipient, 42, 0},
	} {
		if got := tt.about.correct([3]int{5, 1, tt.give}); got != [3]int{5, 1, tt.want} {
			t.Errorf("%s: x.1.%d became %v, want x.1.%d", subjectClass[tt.about], tt.give, got, tt.want)
		}
	}
	if got := aboutClient.correct([3]int{5, 1, 1}); got != [3]int{5, 0, 0} {
		t.Errorf("about a client: %v", got)
	}
	if got := aboutSender.correct([3]int{5, 7, 1}); got != [3]int{5, 7, 1} {
		t.Errorf("x.7.1 became %v", got)
	}
}
