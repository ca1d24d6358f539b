package policy

import (
	"context"
	"slices"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// watcher is a follower who wants to hear of refused recipients.
type watcher struct{ follower }

func (w watcher) Attend() Attendance { return w }

func (w watcher) Refused(_ context.Context, tx *mail.Transaction, reply status.Reply) {
	_, _ = w.note("refused " + tx.Recipient.Address.String() + " " + reply.EnhancedString())
}

// A recipient that is refused, at once or by a flag at the end, is none to who
// attends; who asked for it hears of the refusal.
func TestRefusedRecipientsAndAttenders(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{"no": "refused alice@example.com 5.7.1", "defer_if_permit": "refused alice@example.com 4.7.0"} {
		var told []string
		f := &fixture{}
		d := deps(f)
		d.Stages["watch"] = func(Spec) (Stage, error) { return watcher{follower{name: "watch", told: &told}}, nil }
		d.Stages["follow"] = func(Spec) (Stage, error) { return follower{name: "follow", told: &told}, nil }
		chain, err := Build(Config{}, map[List][]Spec{ListContent: words("watch follow"), ListRecipient: words(list)}, d)
		if err != nil {
			t.Fatal(err)
		}
		s := chain.Session()
		if _, phase := dialogue(s, "alice@example.com", nil); phase != mail.PhaseRecipient {
			t.Errorf("%s: refused at %v", list, phase)
		}
		s.Close()
		all := []string{
			"watch:connect", "follow:connect", "watch:helo", "follow:helo", "watch:mail", "follow:mail", "watch:" + want, "watch:close", "follow:close",
		}
		if !slices.Equal(told, all) {
			t.Errorf("%s: told %q\nwant %q", list, told, all)
		}
	}
}
