package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// mboxOf is a file of n messages, from number on.
func mboxOf(t *testing.T, dir string, number, n int) string {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "From kim Sat Feb 29 12:30:00 2020\nMessage-ID: <%d@x>\nStatus: RO\nSubject: number %d\n\n%d\n\n", number+i, number+i, number+i)
	}
	name := filepath.Join(dir, fmt.Sprintf("%d.mbox", number))
	must(t, os.WriteFile(name, []byte(b.String()), 0o600))
	return name
}

// syncedInbox is what a client that synchronises knows of an INBOX.
type syncedInbox struct {
	uidValidity   uint32
	highestModSeq uint64
	uids, flags   string
}

func (s *site) synced(login string, changedSince uint64) syncedInbox {
	s.t.Helper()
	c, err := s.imap(login, ldif.Password(login))
	must(s.t, err)
	defer func() { _ = c.Close() }()
	selected, err := c.Select("INBOX", &imap.SelectOptions{CondStore: true}).Wait()
	must(s.t, err)
	known := syncedInbox{uidValidity: selected.UIDValidity, highestModSeq: selected.HighestModSeq}
	if selected.NumMessages == 0 {
		return known
	}
	all := imap.UIDSet{}
	all.AddRange(1, 0)
	list, err := c.Fetch(all, &imap.FetchOptions{UID: true, Flags: true, ChangedSince: changedSince}).Collect()
	must(s.t, err)
	for _, m := range list {
		known.uids += fmt.Sprint(" ", m.UID)
		known.flags += fmt.Sprint(" ", m.UID, m.Flags)
	}
	return known
}

// emptyBackup makes a folder whose only run was interrupted.
func emptyBackup(t *testing.T, s *site) string {
	t.Helper()
	dir := filepath.Join(s.Dir, "interrupted")
	s.run("backup", dir, "--all")
	runs, err := filepath.Glob(filepath.Join(dir, "runs", "*.jsonl"))
	must(t, err)
	for _, run := range runs {
		must(t, os.Rename(run, strings.TrimSuffix(run, ".jsonl")+".part"))
	}
	return dir
}

// TestBackupAndDisaster: a running server is backed up; a message that somebody
// deleted comes back beside the others; after the loss of everything the
// accounts are what they were, so that a client fetches no message again; a
// backup that is damaged is not taken for whole.
func TestBackupAndDisaster(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil)
	s.start()
	s.run("import", "mbox", mboxOf(t, s.Dir, 0, 40), "--user", "alice")
	s.run("import", "mbox", mboxOf(t, s.Dir, 100, 3), "--user", "bob")
	dir := filepath.Join(s.Dir, "backup")
	if out := s.failing("backup", dir); !strings.Contains(out, "--all") {
		t.Errorf("of nobody: %s", out)
	}
	if out := s.run("backup", dir, "--all"); !strings.Contains(out, "43 message(s)") || !strings.Contains(out, "43 new bodies") {
		t.Errorf("first: %s", out)
	}
	if out := s.run("backup", dir, "-u", "alice@example.com", "--json"); !strings.Contains(out, `"unchanged":1`) || !strings.Contains(out, `"new_bodies":0`) {
		t.Errorf("second: %s", out)
	}
	if out := s.run("backup", "list", dir); strings.Count(out, "\n") != 2 {
		t.Errorf("list: %s", out)
	}
	if out := s.run("backup", "verify", dir, "--deep", "--against-store"); !strings.Contains(out, "all whole") {
		t.Errorf("verify: %s", out)
	}

	for _, bad := range []struct {
		want string
		args []string
	}{
		{"in data_dir", []string{"backup", filepath.Join(s.Dir, "data", "backup"), "--all"}},
		{"nothing to give up", []string{"restore", dir, "--all", "--give-up"}},
		{"no message with such a UID", []string{"restore", dir, "-u", "alice", "--mailbox", "INBOX", "--uid", "999"}},
		{"neither a time", []string{"restore", dir, "-u", "alice", "--at", "../runs/x"}},
		{"not UTF-8", []string{"mailbox", "create", "-u", "alice", "b\xff"}},
	} {
		if out := s.failing(bad.args...); !strings.Contains(out, bad.want) {
			t.Errorf("%q: %s, want %q", bad.args, out, bad.want)
		}
	}
	if out := s.failing("backup", "verify", emptyBackup(t, s)); !strings.Contains(out, "nothing can be restored") {
		t.Errorf("verify of no run: %s", out)
	}

	// Somebody is connected while a mailbox comes back.
	c, err := s.imap("alice", ldif.Password("alice"))
	must(t, err)
	defer func() { _ = c.Close() }()
	_, err = c.Select("INBOX", nil).Wait()
	must(t, err)
	if out := s.run("restore", dir, "-u", "alice", "--mailbox", "inbox", "--uid", "7-9", "--into", "Restored"); !strings.Contains(out, "3 message(s)") {
		t.Errorf("restore: %s", out)
	}
	if out := s.run("restore", dir, "-u", "alice", "--mailbox", "inbox", "--uid", "7-9", "--into", "Restored"); !strings.Contains(out, "0 message(s)") || !strings.Contains(out, "3 were there") {
		t.Errorf("restored twice: %s", out)
	}
	if st, err := c.Status("Restored", &imap.StatusOptions{NumMessages: true}).Wait(); err != nil || *st.NumMessages != 3 {
		t.Errorf("status %+v, %v", st, err)
	}
	if out := s.failing("restore", dir, "--all"); !strings.Contains(out, "holds messages") {
		t.Errorf("over accounts that live: %s", out)
	}
	must(t, c.Noop().Wait())
	before := s.synced("alice", 0)

	// Everything is lost.
	s.proc.Stop()
	must(t, os.RemoveAll(filepath.Join(s.Dir, "data")))
	if out := s.run("restore", dir, "--all", "--dry-run"); strings.Count(out, "to restore") != 2 {
		t.Errorf("dry run: %s", out)
	}
	if out := s.run("restore", dir, "--all"); !strings.Contains(out, "40 message(s)") {
		t.Errorf("restore of all: %s", out)
	}
	if out := s.run("fsck"); strings.Contains(out, "UID") {
		t.Errorf("fsck: %s", out)
	}
	s.start()
	after := s.synced("alice", before.highestModSeq) // the client asks for what is new since
	if after.uidValidity != before.uidValidity || after.uids != before.uids || after.flags != before.flags || after.highestModSeq <= before.highestModSeq {
		t.Errorf("after the restore %+v\nbefore %+v", after, before)
	}
	if text := read(t, filepath.Join(s.Dir, "audit.log")); !strings.Contains(text, "complete: 2 accounts, 43 messages") || !strings.Contains(text, "restore of all accounts") {
		t.Errorf("the audit does not tell:\n%s", text)
	}

	// The backup is damaged.
	bodies, err := filepath.Glob(filepath.Join(dir, "bodies", "*", "*"))
	must(t, err)
	must(t, os.Truncate(bodies[0], 3))
	if code := exitCode("backup", "verify", dir, "--deep", "-c", s.Config); code != notWhole {
		t.Errorf("verify ends with %d", code)
	}
	if out := s.run("backup", "prune", dir, "--keep-last", "1"); !strings.Contains(out, "2 run(s) kept") {
		t.Errorf("prune: %s", out) // one of all accounts, one of some
	}
}

// TestBackupKilled: a backup that is killed leaves the runs before as they were,
// and the next is whole; a restore that is killed is gone on with, and until then
// nobody uses half an account.
func TestBackupKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil)
	s.start()
	s.run("import", "mbox", mboxOf(t, s.Dir, 0, 150), "--user", "alice")
	dir := filepath.Join(s.Dir, "backup")
	s.run("backup", dir, "--all")
	s.run("import", "mbox", mboxOf(t, s.Dir, 150, 150), "--user", "alice")
	kill := func(until func() bool, args ...string) {
		t.Helper()
		cmd := exec.Command(program, append(args, "-c", s.Config)...)
		must(t, cmd.Start())
		testenv.Eventually(t, time.Minute, func() error {
			if !until() {
				return fmt.Errorf("%v does not get as far", args)
			}
			return nil
		})
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	}
	bodies := func() int {
		list, err := filepath.Glob(filepath.Join(dir, "bodies", "*", "*.zst"))
		must(t, err)
		return len(list)
	}
	// At this pace it would go on for long after the moment of the kill.
	kill(func() bool { return bodies() > 155 }, "backup", dir, "--all", "--rate", "750")
	if out := s.run("backup", "verify", dir, "--deep"); !strings.Contains(out, "1 run(s)") || !strings.Contains(out, "1 interrupted") {
		t.Errorf("after the kill: %s", out)
	}
	already := bodies()
	if out := s.run("backup", dir, "--all"); !strings.Contains(out, fmt.Sprintf("%d new bodies", 300-already)) {
		t.Errorf("gone on with %d: %s", already, out)
	}
	if out := s.run("backup", "verify", dir, "--deep"); !strings.Contains(out, "2 run(s), 2 manifest(s), 300 bodies") || strings.Contains(out, "interrupted") {
		t.Errorf("verify: %s", out)
	}
	before := s.synced("alice", 0)

	s.proc.Stop()
	must(t, os.RemoveAll(filepath.Join(s.Dir, "data")))
	s.start()
	half := func() bool {
		out, _ := command(t.Context(), "status", "-c", s.Config)
		_, err := s.imap("alice", ldif.Password("alice"))
		return out != "" && err != nil && strings.Contains(err.Error(), "UNAVAILABLE")
	}
	kill(half, "restore", dir, "--all", "--rate", "750")
	if out := s.failing("restore", dir, "--all", "--at", s.firstRun(dir)); !strings.Contains(out, "was begun to be restored") {
		t.Errorf("another run in between: %s", out)
	}
	s.proc.Kill()
	s.start()
	if _, err := s.imap("alice", ldif.Password("alice")); err == nil {
		t.Error("half an account can be used after a restart")
	}
	if out := s.run("restore", dir, "--all"); !strings.Contains(out, "restored from run") {
		t.Errorf("gone on with: %s", out)
	}
	if after := s.synced("alice", 0); after.uids != before.uids || after.uidValidity != before.uidValidity {
		t.Errorf("after %+v\nbefore %+v", after, before)
	}
}

func (s *site) firstRun(dir string) string {
	run, _, _ := strings.Cut(s.run("backup", "list", dir), " ")
	return run
}

// TestBackupOfPair: either node is backed up while both run; on neither an account
// is made anew from it; when both are lost one is restored alone, and the other
// joins it.
func TestBackupOfPair(t *testing.T) {
	t.Parallel()
	p := newPairOfServers(t)
	p.start()
	p[0].run("import", "mbox", mboxOf(t, p[0].Dir, 0, 30), "--user", "alice")
	p.ready()
	dir := filepath.Join(p[1].Dir, "backup")
	testenv.Eventually(t, time.Minute, func() error {
		if out := p[1].run("backup", dir, "--all"); !strings.Contains(out, "30 message(s)") {
			return fmt.Errorf("the second node has %s", out)
		}
		return nil
	})
	if out := p[0].failing("restore", dir, "--all"); !strings.Contains(out, "one of a pair") {
		t.Errorf("restored while the partner lives: %s", out)
	}
	if out := p[1].run("restore", dir, "-u", "alice", "--mailbox", "INBOX"); !strings.Contains(out, "30 message(s)") {
		t.Errorf("beside the others: %s", out)
	}
	for _, s := range p {
		s.proc.Stop()
		must(t, os.RemoveAll(filepath.Join(s.Dir, "data")))
	}
	if out := p[0].failing("restore", dir, "--all"); !strings.Contains(out, "before the pair is made") {
		t.Errorf("restored as one of a pair: %s", out)
	}
	must(t, os.RemoveAll(filepath.Join(p[0].Dir, "data")))
	alone, rest, _ := strings.Cut(standardPair, "  replica {")
	_, rest, _ = strings.Cut(rest, "\n  }\n")
	p[0].configure(alone + rest)
	p[0].run("restore", dir, "--all")
	p[0].configure(standardPair)
	p.start()
	for _, s := range p {
		testenv.Eventually(t, time.Minute, func() error {
			subjects, err := s.subjects("alice")
			if err == nil && len(subjects) != 30 {
				err = fmt.Errorf("%d messages", len(subjects))
			}
			return err
		})
		if code := s.checkPair(); code != 0 {
			t.Errorf("the pair differs: %d", code)
		}
	}
}

// TestDataDirOfAnother: a restore as root makes no files in the data_dir that an
// installation made for the server's user.
func TestDataDirOfAnother(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, data := range []string{dir, filepath.Join(dir, "data")} {
		must(t, prepareDataDir(os.Geteuid(), data))
		if err := prepareDataDir(os.Geteuid()+1, data); err == nil || !strings.Contains(err.Error(), "run this as that user") {
			t.Errorf("%s: %v", data, err)
		}
	}
}
