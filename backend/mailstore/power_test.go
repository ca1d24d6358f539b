package mailstore

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store/storetest"
)

// told is what clients of one mailbox were told so far.
type told struct {
	mu        sync.Mutex
	appended  map[imap.UID]string // content, by the UID that was answered
	flagged   map[imap.UID]bool
	expunging map[imap.UID]bool // asked for
	expunged  map[imap.UID]bool // answered
	delivered map[string]string // content, by the ID of the delivery
}

func newTold() *told {
	return &told{
		appended: map[imap.UID]string{}, flagged: map[imap.UID]bool{},
		expunging: map[imap.UID]bool{}, expunged: map[imap.UID]bool{}, delivered: map[string]string{},
	}
}

func (k *told) note(fn func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn()
}

func (k *told) now() *told {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &told{
		appended: maps.Clone(k.appended), flagged: maps.Clone(k.flagged), expunging: maps.Clone(k.expunging),
		expunged: maps.Clone(k.expunged), delivered: maps.Clone(k.delivered),
	}
}

// powerMessage is of a size that is in the batch, in a pack, or in several
// pieces.
func powerMessage(name string, i int) string {
	line := name + " " + strings.Repeat("x", 60) + "\r\n"
	return "Subject: " + name + "\r\n\r\n" + strings.Repeat(line, []int{1, 400, 2000}[i%3])
}

// TestPowerCuts appends, delivers, flags and expunges, and cuts the power of
// store and bodies together all the while. After each cut what was answered
// holds: messages, UIDs, flags, expunges, and a repeated delivery stores
// nothing.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	type cut struct {
		n             int
		left          *storetest.Machine
		before, after *told // what was surely, and what was perhaps known
	}
	m := storetest.NewMachine()
	k := newTold()
	var mu sync.Mutex
	var cuts []cut
	m.OnOp(func(n int) {
		if n%5 != 0 {
			return
		}
		before := k.now()
		left := m.Cut(uint64(n))
		after := k.now()
		mu.Lock()
		defer mu.Unlock()
		cuts = append(cuts, cut{n, left, before, after})
	})
	kv, blobs := m.Open(t)
	for name, err := range busy(openOn(t, Config{}, kv, blobs), k, 3, 6) {
		t.Errorf("%s: %v", name, err)
	}
	m.OnOp(nil)
	if len(cuts) < 10 {
		t.Errorf("only %d cuts", len(cuts))
	}
	for _, c := range cuts {
		ok := t.Run(fmt.Sprint("ahead of operation ", c.n), func(t *testing.T) {
			kv, blobs := c.left.Open(t)
			c.before.holds(t, openOn(t, Config{}, kv, blobs), c.after.expunging)
		})
		if !ok {
			return
		}
	}
	t.Logf("%d cuts", len(cuts))
}

// busy has some workers do some steps each on one account, and returns which
// of them failed.
func busy(s *Store, k *told, workers, steps int) map[string]error {
	failed := make(map[string]error)
	a, err := s.Account(context.Background(), mail.Account{Name: "kim"})
	if err != nil {
		return map[string]error{"the account": err}
	}
	defer a.Close()
	inbox, err := a.Mailbox(context.Background(), "INBOX")
	if err != nil {
		return map[string]error{"INBOX": err}
	}
	defer inbox.Close()
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			for i := range steps {
				name := fmt.Sprintf("%d-%d", w, i)
				if err := k.step(s, a, inbox, name, i); err != nil {
					k.note(func() { failed[name] = err })
				}
			}
		})
	}
	running.Wait()
	return failed
}

// step delivers one message, and appends, flags and perhaps expunges another.
func (k *told) step(s *Store, a *Account, inbox *Mailbox, name string, i int) error {
	ctx := context.Background()
	text := powerMessage("delivered "+name, i)
	content, err := s.Stage(ctx, strings.NewReader(text))
	if err != nil {
		return err
	}
	defer content.Discard()
	if err := a.Deliver(ctx, []Delivery{{ID: name, Content: content}})[0]; err != nil {
		return err
	}
	k.note(func() { k.delivered[name] = text })

	text = powerMessage("appended "+name, i+1)
	second, err := s.Stage(ctx, strings.NewReader(text))
	if err != nil {
		return err
	}
	defer second.Discard()
	uids, err := inbox.Append(ctx, []Append{{Content: second}})
	if err != nil {
		return err
	}
	k.note(func() { k.appended[uids[0]] = text })
	if _, err := inbox.StoreFlags(ctx, uids, FlagsChange{Op: FlagsAdd, Flags: FlagFlagged | FlagDeleted}); err != nil {
		return err
	}
	k.note(func() { k.flagged[uids[0]] = true })
	if i%2 == 0 {
		return nil
	}
	k.note(func() { k.expunging[uids[0]] = true })
	if _, err := inbox.Expunge(ctx, uids); err != nil {
		return err
	}
	k.note(func() { k.expunged[uids[0]] = true })
	return nil
}

// holds compares a store that lost its power with what its clients knew;
// expunging is what may be gone.
func (k *told) holds(t *testing.T, s *Store, expunging map[imap.UID]bool) {
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, "INBOX")
	byUID, times := map[imap.UID]*Message{}, map[string]int{}
	v := m.View()
	for i := range v.Len() {
		byUID[v.At(i).UID] = v.At(i)
		times[readAll(t, m, v.At(i))]++
	}
	for uid, text := range k.appended {
		message := byUID[uid]
		switch {
		case k.expunged[uid] && message != nil:
			t.Errorf("UID %d was expunged and is back", uid)
		case message == nil && !expunging[uid]:
			t.Errorf("UID %d was answered and is lost", uid)
		case message != nil && readAll(t, m, message) != text:
			t.Errorf("UID %d names another message", uid)
		case message != nil && k.flagged[uid] && message.Flags&FlagFlagged == 0:
			t.Errorf("UID %d lost its flags", uid)
		}
	}
	for id, text := range k.delivered {
		if times[text] != 1 {
			t.Errorf("delivery %s was acknowledged and is there %d times", id, times[text])
		}
		content := stage(t, s, text)
		if err := a.Deliver(t.Context(), []Delivery{{ID: id, Content: content}})[0]; err != nil {
			t.Error(err)
		}
		content.Discard()
	}
	if n := m.View().Len(); n != v.Len() {
		t.Errorf("%d messages after repeated deliveries, %d before", n, v.Len())
	}
	for _, uid := range appendMessages(t, s, m, 2) {
		if _, taken := k.appended[uid]; taken || byUID[uid] != nil {
			t.Errorf("UID %d is given again", uid)
		}
	}
}
