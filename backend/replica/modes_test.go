package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	disk "github.com/postern-mail/postern/store/memory"
	"github.com/postern-mail/postern/store/storetest"
)

// TestStrict: without the partner nothing is accepted, and it is said before
// anything is stored; with it everything is.
func TestStrict(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{Config: Config{Mode: mailstore.DurabilityStrict}})
	var known *status.Error
	if err := p.servers[0].Confirms(mailstore.DurabilityDefault); !errors.As(err, &known) || known.Reason != status.StoreDown {
		t.Fatalf("without a link: %v", err)
	}
	if err := p.servers[0].deliver(t, "anna", "1", message("1", 10)); err == nil {
		t.Fatal("accepted without the partner")
	}
	p.connect()
	if err := p.servers[0].Confirms(mailstore.DurabilityDefault); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := p.servers[i%2].deliver(t, "anna", fmt.Sprint(i), message(fmt.Sprint(i), 50<<10)); err != nil {
			t.Fatal(err)
		}
	}
	p.same("anna")
}

// TestSemiSync: with the partner an answer means that both have it.
func TestSemiSync(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{})
	p.connect()
	for i := range 4 {
		s, other := p.servers[i%2], p.servers[1-i%2]
		if err := s.deliver(t, "anna", fmt.Sprint(i), message(fmt.Sprint(i), 100)); err != nil {
			t.Fatal(err)
		}
		here, err := s.mail.Head(t.Context(), mailstore.AccountGUID("anna"))
		if err != nil {
			t.Fatal(err)
		}
		head, err := other.mail.Head(t.Context(), mailstore.AccountGUID("anna"))
		if err != nil {
			t.Fatal(err)
		}
		if head.Others.Of(s.mail.Origin()).Seq < here.Acked || here.Acked == 0 {
			t.Fatalf("the partner has %v, %d were confirmed", head.Others, here.Acked)
		}
	}
	if p.servers[0].audit.has("degraded") || p.servers[1].audit.has("degraded") {
		t.Error("answers were given without the partner")
	}
}

func TestWatermark(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{Config: Config{Mode: mailstore.DurabilityShadow}})
	s, id := p.servers[0], mailstore.AccountGUID("anna")
	if err := s.deliver(t, "anna", "1", message("1", 10)); err != nil {
		t.Fatal(err)
	}
	head, err := s.mail.Head(t.Context(), id)
	if err != nil || s.Watermark(t.Context(), id, head.Seq) {
		t.Fatalf("the partner has it without a link, %v", err)
	}
	p.connect()
	p.same("anna")
	if !s.Watermark(t.Context(), id, head.Seq) || s.Watermark(t.Context(), id, head.Seq+1) {
		t.Error("the watermark is not where the account is")
	}
}

// TestResync: the partner was away for longer than the journal is kept. What was
// expunged meanwhile stays so, and what came on either side is on both.
func TestResync(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{retention: time.Nanosecond})
	p.connect()
	for i := range 6 {
		if err := p.servers[0].deliver(t, "anna", fmt.Sprint(i), message(fmt.Sprint(i), 100)); err != nil {
			t.Fatal(err)
		}
	}
	p.same("anna")
	p.cut()
	box := p.servers[0].open(t, "anna", "INBOX")
	if _, err := box.StoreFlags(t.Context(), uids(2, 3), mailstore.FlagsChange{Op: mailstore.FlagsAdd, Flags: mailstore.FlagDeleted}); err != nil {
		t.Fatal(err)
	}
	if _, err := box.Expunge(t.Context(), uids(2, 3)); err != nil {
		t.Fatal(err)
	}
	for n, s := range p.servers {
		for i := range 3 {
			id := fmt.Sprint("away", n, i)
			if err := s.deliver(t, "anna", id, message(id, 70<<10)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.mail.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p.connect()
	p.same("anna")
	if got := box.View().Len(); got != 6-2+6 {
		t.Errorf("%d messages, want 10", got)
	}
}

func TestPauseOfANode(t *testing.T) {
	t.Parallel()
	// Who opens what is paused waits for nothing.
	p := newPair(t, testConfig{Config: Config{Mode: mailstore.DurabilityAsync, AttachWait: -1}})
	p.connect()
	for _, name := range []string{"anna", "bert"} {
		if err := p.servers[0].deliver(t, name, name, message(name, 10)); err != nil {
			t.Fatal(err)
		}
	}
	p.same("anna", "bert")
	if err := p.servers[1].Pause(t.Context(), "anna"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"anna", "bert"} {
		if err := p.servers[0].deliver(t, name, name+"2", message(name, 10)); err != nil {
			t.Fatal(err)
		}
	}
	p.same("bert")
	rows, err := p.servers[1].Accounts(t.Context(), "a*")
	if err != nil || len(rows) != 1 || rows[0].State != "paused" {
		t.Fatalf("rows %+v, %v", rows, err)
	}
	if n := p.servers[1].open(t, "anna", "INBOX").View().Len(); n != 1 {
		t.Fatalf("%d messages in a paused account", n)
	}
	if err := p.servers[1].Resume(t.Context(), "anna"); err != nil {
		t.Fatal(err)
	}
	p.same("anna")
	s, err := p.servers[0].Status(t.Context())
	if err != nil || s.KnownUsers != 2 || !s.Connected {
		t.Errorf("status %+v, %v", s, err)
	}
}

// TestRehome hands an account over and back while both servers take mail.
func TestRehome(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{})
	p.connect()
	if err := p.servers[0].deliver(t, "anna", "first", message("first", 10)); err != nil {
		t.Fatal(err)
	}
	p.same("anna")
	var delivering sync.WaitGroup
	for n, s := range p.servers {
		delivering.Go(func() {
			for i := range 30 {
				if err := s.deliver(t, "anna", fmt.Sprint(n, "-", i), message("more", 10)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	home := mail.Account{Name: "anna"}.HomeClass()
	if err := p.servers[1-home].Rehome(t.Context(), "anna", home); !errors.Is(err, mailstore.ErrNotHome) {
		t.Errorf("given away by who is not home: %v", err)
	}
	if err := p.servers[home].Rehome(t.Context(), "anna", 1-home); err != nil {
		t.Fatal(err)
	}
	delivering.Wait()
	p.same("anna")
	for n, s := range p.servers {
		head, err := s.mail.Head(t.Context(), mailstore.AccountGUID("anna"))
		if err != nil || head.Home.Class != 1-home {
			t.Errorf("server %d: home %+v, %v", n, head.Home, err)
		}
	}
	view := p.servers[0].open(t, "anna", "INBOX").View()
	if view.Len() != 61 || view.At(60).UID != 61 {
		t.Errorf("%d messages up to UID %d", view.Len(), view.At(view.Len()-1).UID)
	}
}

// TestScrubOfANode damages a body on one server, which gets it back from the
// other; what neither has is told of and stays.
func TestScrubOfANode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := &pair{t: t}
	kv, blobs := storetest.OpenDir(t, dir)
	p.servers[0] = newServer(t, 0, kv, blobs, testConfig{})
	kv, blobs = storetest.Open(t)
	p.servers[1] = newServer(t, 1, kv, blobs, testConfig{})
	p.connect()
	if err := p.servers[0].deliver(t, "anna", "1", message("1", 90<<10)); err != nil {
		t.Fatal(err)
	}
	p.same("anna")
	packs, err := filepath.Glob(filepath.Join(dir, "bodies", "0*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("no packs, %v", err)
	}
	file, err := os.OpenFile(packs[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte("damage"), 40_000); err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	var found []Damage
	if err := p.servers[0].Scrub(t.Context(), func(d Damage) { found = append(found, d) }); err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Mended != nil {
		t.Fatalf("found %+v", found)
	}
	p.same("anna") // reads every body
	found = nil
	if err := p.servers[0].Scrub(t.Context(), func(d Damage) { found = append(found, d) }); err != nil || len(found) > 0 {
		t.Errorf("found again %+v, %v", found, err)
	}
}

// TestScrubOfALostKey: a body that the partner puts back stays for all messages
// that need it, more than a commit has operations, and for what was copied.
func TestScrubOfALostKey(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{})
	p.connect()
	if err := p.servers[0].deliver(t, "anna", "1", message("1", 10)); err != nil {
		t.Fatal(err)
	}
	box := p.servers[0].open(t, "anna", "INBOX")
	for box.View().Len() < 1024 {
		if _, err := box.Copy(t.Context(), mailstore.UIDsOf(nil, box.View(), 0, box.View().Len()), box); err != nil {
			t.Fatal(err)
		}
	}
	p.same("anna")
	ref := box.View().At(0).Body
	lose := store.NewBatch()
	lose.Delete(append([]byte("bh"), ref.Hash[:]...))
	lose.Delete(append([]byte("bn"), ref.Hash[:]...))
	if _, err := p.servers[0].kv.Commit(t.Context(), lose); err != nil {
		t.Fatal(err)
	}
	var found []Damage
	if err := p.servers[0].Scrub(t.Context(), func(d Damage) { found = append(found, d) }); err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Mended != nil {
		t.Fatalf("found %+v", found)
	}
	references, err := p.servers[0].blobs.(interface {
		References(ctx context.Context, ref store.Ref) (int64, error)
	}).References(t.Context(), ref)
	if err != nil || references != 1024 {
		t.Errorf("%d references, %v", references, err)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{})
	p.connect()
	if err := p.servers[0].deliver(t, "anna", "1", message("1", 10)); err != nil {
		t.Fatal(err)
	}
	p.same("anna")
	box := p.servers[1].open(t, "anna", "INBOX")
	if _, err := box.StoreFlags(t.Context(), uids(1), mailstore.FlagsChange{Op: mailstore.FlagsAdd, Flags: mailstore.FlagSeen | mailstore.FlagDeleted}); err != nil {
		t.Fatal(err)
	}
	if _, err := box.Expunge(t.Context(), uids(1)); err != nil {
		t.Fatal(err)
	}
	p.same("anna")
	for n, s := range p.servers {
		events, err := s.Explain(t.Context(), "anna", "INBOX", 1)
		var told []string
		for _, e := range events {
			told = append(told, fmt.Sprint(e.Node, " ", e.What))
		}
		all := strings.Join(told, "; ")
		if err != nil || !strings.Contains(all, "0 added") || !strings.Contains(all, `1 flags set \Seen \Deleted`) || !strings.Contains(all, "1 expunged") {
			t.Errorf("server %d: %s, %v", n, all, err)
		}
	}
}

// TestRestoredFromBackup: a server whose data is from yesterday finds that out
// with the first link, and serves nothing until it rejoins.
func TestRestoredFromBackup(t *testing.T) {
	t.Parallel()
	p := &pair{t: t}
	disks := [2]*disk.Disk{disk.NewDisk(), disk.NewDisk()}
	for i, d := range disks {
		kv, blobs := d.Open()
		p.servers[i] = newServer(t, uint16(i), kv, blobs, testConfig{Config: Config{SemiSyncWait: time.Hour}})
	}
	p.connect()
	for i := range 2 {
		if err := p.servers[i].deliver(t, "anna", fmt.Sprint(i), message("1", 100)); err != nil {
			t.Fatal(err)
		}
	}
	p.same("anna")
	p.cut()
	backup := disks[1].Clone()
	p.connect()
	if err := p.servers[1].deliver(t, "anna", "lost", message("after the backup", 100)); err != nil {
		t.Fatal(err)
	}
	p.same("anna")
	p.cut()
	p.servers[1].stop()
	kv, blobs := backup.Open()
	p.servers[1] = newServer(t, 1, kv, blobs, testConfig{})
	p.connectOnly()
	await(t, p.servers[1].audit.refused)
	var known *status.Error
	if err := p.servers[1].deliver(t, "anna", "x", message("x", 10)); !errors.As(err, &known) || known.Reason != status.StoreDown {
		t.Errorf("the restored server took mail: %v", err)
	}
	await(t, p.servers[0].audit.refused)
	if h := p.servers[0].Health(); h.Linked || h.PeerStale == "" {
		t.Errorf("what its partner tells of it: %+v", h)
	}
	// Nobody waits for a partner that will not confirm.
	if err := p.servers[0].deliver(t, "anna", "y", message("y", 10)); err != nil {
		t.Errorf("the other one did not: %v", err)
	}
	if s, err := p.servers[0].Status(t.Context()); err != nil || s.Lag.Operations == 0 {
		t.Errorf("a lag of %+v with a message that the partner has not, %v", s.Lag, err)
	}
	// It is remembered.
	p.cut()
	p.servers[1].stop()
	kv, blobs = backup.Open()
	p.servers[1] = newServer(t, 1, kv, blobs, testConfig{})
	if err := p.servers[1].deliver(t, "anna", "z", message("z", 10)); err == nil {
		t.Error("after a restart it took mail")
	}
}

// TestForgottenPartner: a server that was forgotten and comes back with what it
// had is not believed.
func TestForgottenPartner(t *testing.T) {
	t.Parallel()
	p := &pair{t: t}
	disks := [2]*disk.Disk{disk.NewDisk(), disk.NewDisk()}
	for i, d := range disks {
		kv, blobs := d.Open()
		p.servers[i] = newServer(t, uint16(i), kv, blobs, testConfig{})
	}
	p.connect()
	if err := p.servers[0].deliver(t, "anna", "1", message("1", 100)); err != nil {
		t.Fatal(err)
	}
	p.same("anna")
	p.cut()
	p.servers[0].stop()
	kv, blobs := disks[0].Open()
	if err := Forget(t.Context(), kv, p.servers[0].mail.Origin()); err != nil {
		t.Fatal(err)
	}
	p.servers[0] = newServer(t, 0, kv, blobs, testConfig{})
	p.connectOnly()
	await(t, p.servers[0].audit.refused)
	if p.servers[0].Linked() {
		t.Error("a partner that was forgotten is taken for the partner")
	}
}
