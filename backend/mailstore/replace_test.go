package mailstore

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store/storetest"
)

// TestReplace: one commit takes the old message out and puts the new one in,
// into any mailbox of the account or another's; without the old one nothing is
// added.
func TestReplace(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	in, sent := openMailbox(t, a, inbox), openMailbox(t, a, "Sent")
	other := openMailbox(t, openAccount(t, s, "pat"), inbox)
	uids := appendMessages(t, s, in, 4)
	replace := func(old imap.UID, dest *Mailbox) (imap.UID, error) {
		content := stage(t, s, message(int(old)+100))
		defer content.Discard()
		return in.Replace(t.Context(), old, dest, Append{Content: content, Flags: FlagDraft})
	}
	before := in.View().HighestModSeq()
	uid, err := replace(uids[1], in)
	if err != nil || uid != 5 {
		t.Fatal(uid, err)
	}
	if v := in.View(); v.Len() != 4 || v.At(3).UID != 5 || v.At(3).Flags != FlagDraft || v.HighestModSeq() <= before {
		t.Errorf("%d messages, last %+v", v.Len(), v.At(v.Len()-1))
	}
	if gone, complete := in.ExpungedSince(before); !complete || len(gone) != 1 || gone[0] != uids[1] {
		t.Errorf("expunged %v, %v", gone, complete)
	}
	if uid, err := replace(uids[0], sent); err != nil || uid != 1 || in.View().Len() != 3 || sent.View().Len() != 1 {
		t.Error(uid, err, in.View().Len(), sent.View().Len())
	}
	if uid, err := replace(uids[2], other); err != nil || uid != 1 || in.View().Len() != 2 || other.View().Len() != 1 {
		t.Error(uid, err, in.View().Len(), other.View().Len())
	}
	for _, dest := range []*Mailbox{in, sent, other} {
		n := dest.View().Len()
		if _, err := replace(uids[1], dest); !errors.Is(err, ErrNoMessage) || dest.View().Len() != n {
			t.Errorf("a message that is gone: %v", err)
		}
	}
	if err := a.Delete(t.Context(), "Sent"); err != nil {
		t.Fatal(err)
	}
	if _, err := replace(uids[3], sent); !errors.Is(err, ErrNoMailbox) || in.View().Len() != 2 {
		t.Errorf("into a mailbox that is gone: %v, %d messages", err, in.View().Len())
	}
}

// TestPowerCutsOfReplace: whenever the power goes while a draft is replaced again
// and again, there is one draft, and none that is older than the last answer.
func TestPowerCutsOfReplace(t *testing.T) {
	t.Parallel()
	type cut struct {
		left     *storetest.Machine
		answered int
	}
	machine := storetest.NewMachine()
	var mu sync.Mutex
	var cuts []cut
	answered := -1
	machine.OnOp(func(n int) {
		mu.Lock()
		now := answered
		mu.Unlock()
		if now < 0 || n%3 != 0 {
			return
		}
		left := machine.Cut(uint64(n))
		mu.Lock()
		defer mu.Unlock()
		cuts = append(cuts, cut{left, now})
	})
	kv, blobs := machine.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	m := openMailbox(t, openAccount(t, s, "kim"), "Drafts")
	old := appendMessages(t, s, m, 1)[0]
	for i := range 8 {
		mu.Lock()
		answered = i
		mu.Unlock()
		content := stage(t, s, powerMessage(fmt.Sprint("draft ", i+1), i))
		var err error
		old, err = m.Replace(t.Context(), old, m, Append{Content: content, InternalDate: time.Unix(int64(i+1), 0)})
		content.Discard()
		if err != nil {
			t.Fatal(err)
		}
	}
	machine.OnOp(nil)
	if len(cuts) < 5 {
		t.Errorf("only %d cuts", len(cuts))
	}
	for i, c := range cuts {
		kv, blobs := c.left.Open(t)
		s := openOn(t, Config{}, kv, blobs)
		v := openMailbox(t, openAccount(t, s, "kim"), "Drafts").View()
		if v.Len() != 1 {
			t.Fatalf("cut %d: %d drafts", i, v.Len())
		}
		if n := v.At(0).InternalDate.Unix(); c.answered > 0 && int(n) < c.answered {
			t.Errorf("cut %d: draft %d is back, %d was answered", i, n, c.answered)
		}
	}
	t.Logf("%d cuts", len(cuts))
}
