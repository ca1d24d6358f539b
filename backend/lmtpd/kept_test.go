package lmtpd

import (
	"context"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store/storetest"
)

// keptByAll keeps the mail of everybody but pat.
type keptByAll struct {
	store      *mailstore.Store
	replicated bool
}

func (k *keptByAll) Keeps(account string) bool { return account != "pat" }

func (k *keptByAll) Replicated(ctx context.Context, account mailstore.GUID, dot mailstore.Dot) (bool, bool, error) {
	_, known, err := k.store.Replicated(ctx, account, dot)
	return known && k.replicated, known, err
}

// TestKept: who can keep a message is given a token for it, the same for a
// repeat, until the partner has it; nobody else is.
func TestKept(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	f := newFixtureOf(t, Config{}, mailstore.Config{Pair: true}, kv, blobs)
	keeper := &keptByAll{store: f.store}
	f.deps.Keeper = keeper
	send := func(keep bool, id string) (token string, patAsked bool) {
		t.Helper()
		tx := f.begin(t, smtp.MailCommand{DeliveryID: id, Keep: keep})
		for _, to := range []string{"kim@example.org", "pat@example.org"} {
			if err := rcpt(t, tx, to); err != nil {
				t.Fatal(err)
			}
		}
		replies, err := tx.Content(t.Context(), strings.NewReader(text))
		if err != nil || !replies[0].Positive() || !replies[1].Positive() {
			t.Fatalf("%v, %v", replies, err)
		}
		token, _ = smtp.KeepToken(replies[0])
		_, patAsked = smtp.KeepToken(replies[1])
		return token, patAsked
	}
	if token, _ := send(false, "Q1.0"); token != "" {
		t.Errorf("a client that does not keep mail is given %q", token)
	}
	token, pat := send(true, "Q2.0")
	if again, _ := send(true, "Q2.0"); token == "" || pat || again != token {
		t.Errorf("token %q, of the repeat %q; pat %v", token, again, pat)
	}
	s := &session{handler: f.Handler}
	ask := func(tokens ...string) string {
		t.Helper()
		standings, err := s.Kept(t.Context(), tokens)
		if err != nil {
			t.Fatal(err)
		}
		return string(standings)
	}
	account, dot, _ := parseKeepToken(token)
	other := dot
	other.Origin++
	ahead := dot
	ahead.Seq += 100
	tokens := []string{token, keepToken(account, other), keepToken(account, ahead), keepToken(mailstore.AccountGUID("x"), dot), "?"}
	if got := ask(tokens...); got != "-????" {
		t.Errorf("before: %q", got)
	}
	keeper.replicated = true
	if got := ask(tokens...); got != "+????" {
		t.Errorf("after: %q", got)
	}
	if again, _ := send(true, "Q2.0"); again != "" {
		t.Errorf("a repeat of what the partner has is to be kept: %q", again)
	}
	if n := len(f.messages(t, "kim", "INBOX")); n != 2 {
		t.Errorf("%d messages", n)
	}
}

func FuzzKeepToken(f *testing.F) {
	f.Add(keepToken(mailstore.AccountGUID("kim"), mailstore.Dot{Origin: 1, Seq: 300}))
	f.Add("?")
	f.Fuzz(func(t *testing.T, token string) {
		account, dot, ok := parseKeepToken(token)
		if !ok {
			return
		}
		again, same, ok := parseKeepToken(keepToken(account, dot))
		if !ok || again != account || same != dot {
			t.Errorf("%q: %v %v", token, account, dot)
		}
		if got, asked := smtp.KeepToken(status.Reply{Code: 250, Text: smtp.KeepText("Saved", keepToken(account, dot))}); !asked || got != keepToken(account, dot) {
			t.Errorf("%q is read as %q", token, got)
		}
	})
}
