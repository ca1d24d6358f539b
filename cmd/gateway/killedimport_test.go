package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// killedMessages is how many messages are brought.
const killedMessages = 400

// TestKilledImport: whoever is killed in the middle of an import, and however
// often, the same command brings the rest: no message is missing, none is there
// twice, and UIDs are those of the source where that was asked for.
func TestKilledImport(t *testing.T) {
	t.Parallel()
	from := newSite(t, standard, nil)
	from.start()
	dir := t.TempDir()
	var text strings.Builder
	for i := range killedMessages {
		fmt.Fprintf(&text, "From kim Sat Feb 29 12:30:00 2020\nMessage-ID: <%d@x>\nStatus: %s\nSubject: %d\n\n%s\n\n", i, []string{"O", "RO"}[i%2], i, strings.Repeat("line\n", i%50))
	}
	old := filepath.Join(dir, "old.mbox")
	must(t, os.WriteFile(old, []byte(text.String()), 0o600))
	began := time.Now()
	from.run("import", "mbox", old, "--user", "alice")
	whole := time.Since(began)
	from.run("mailbox", "expunge", "-u", "alice", "uid 5:9,100,350:360", "--yes")
	from.run("export", "maildir", filepath.Join(dir, "Maildir"), "--user", "alice")
	from.run("export", "mbox", filepath.Join(dir, "mboxes"), "--user", "alice")
	password := filepath.Join(dir, "password")
	must(t, os.WriteFile(password, []byte(ldif.Password("alice")+"\n"), 0o600))

	to := newSite(t, standard, nil)
	to.start()
	to.run("mailbox", "create", "-u", "alice", "-u", "bob", "-u", "carol", "Here")
	seed := testenv.Seed(t)
	random := rand.New(rand.NewPCG(seed, 0))
	want := toldOf(from, "alice", "uid,hdr.message-id,flags,size")
	for _, of := range []struct {
		user string
		args []string
		uids bool
	}{
		{"alice", []string{"maildir", filepath.Join(dir, "Maildir"), "--uids"}, true},
		{"bob", []string{"mbox", filepath.Join(dir, "mboxes")}, false},
		{"carol", []string{"imap", "--host", from.address("IMAPS"), "--remote-user", "alice", "--password-file", password, "--insecure-skip-verify", "--uids"}, true},
	} {
		args := append([]string{"import", "--user", of.user, "-c", to.Config}, of.args...)
		var there []int // after each kill
		for round := range 6 {
			moment := time.Duration(random.Int64N(int64(whole)/2 + 1))
			if round%2 == 0 {
				killClient(t, args, moment)
			} else {
				killServer(t, to, args, moment)
			}
			there = append(there, strings.Count(to.run("mailbox", "search", "-u", of.user, "mailbox", "INBOX"), "\n"))
		}
		to.run(args[:len(args):len(args)]...)
		t.Logf("%s: after each kill there were %d messages", of.args[0], there)
		fields := "hdr.message-id,flags"
		if of.uids {
			fields = "uid,hdr.message-id,flags,size"
		}
		if got, want := toldOf(to, of.user, fields), toldOf(from, "alice", fields); got != want {
			t.Errorf("%s: %d lines, want %d:\n%s", of.args[0], strings.Count(got, "\n"), strings.Count(want, "\n"), firstDifference(got, want))
		}
	}
	if again := toldOf(from, "alice", "uid,hdr.message-id,flags,size"); again != want {
		t.Error("the source was changed")
	}
	to.proc.Stop()
	to.run("fsck", "-q")
}

// toldOf is what a site tells of the messages in an INBOX.
func toldOf(s *site, user, fields string) string {
	return s.run("mailbox", "fetch", "-u", user, fields, "mailbox", "INBOX", "--format", "tab")
}

func firstDifference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d: %q, want %q", i+1, a[i], b[i])
		}
	}
	return "one is the beginning of the other"
}

// killClient kills an import at a moment.
func killClient(t *testing.T, args []string, moment time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), moment)
	defer cancel()
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil && ctx.Err() == nil {
		t.Errorf("before it was killed: %v\n%s", err, out)
	}
}

// killServer kills the server at a moment of an import, and starts it again.
func killServer(t *testing.T, s *site, args []string, moment time.Duration) {
	t.Helper()
	killed := make(chan struct{})
	time.AfterFunc(moment, func() { s.proc.Kill(); close(killed) })
	_ = exec.Command(program, args...).Run() // it fails, or was faster
	<-killed
	s.start()
}
