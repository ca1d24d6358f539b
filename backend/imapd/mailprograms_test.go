package imapd

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// mailProgram is a program of Debian's that is run against our server, with a
// home directory of its own.
type mailProgram struct {
	*server
	t          *testing.T
	home       string
	host, port string
	path       string
}

func newMailProgram(t *testing.T, name string) *mailProgram {
	t.Helper()
	p := &mailProgram{t: t, path: testenv.Program(t, name), server: startServer(t, testConfig()), home: testenv.TempDir(t)}
	var err error
	if p.host, p.port, err = net.SplitHostPort(p.addr); err != nil {
		t.Fatal(err)
	}
	return p
}

// file writes a configuration; %HOST, %PORT and %HOME stand for ours.
func (p *mailProgram) file(name, text string) string {
	p.t.Helper()
	path := filepath.Join(p.home, name)
	text = strings.NewReplacer("%HOST", p.host, "%PORT", p.port, "%HOME", p.home).Replace(text)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func (p *mailProgram) run(stdin string, args ...string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Dir, cmd.Stdin = p.home, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "HOME="+p.home, "TERM=vt100", "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%s: %v\n%s", p.path, err, out)
	}
}

// messagesIn lists the files of messages in a Maildir, relative to it.
func (p *mailProgram) messagesIn(maildir string) []string {
	p.t.Helper()
	var found []string
	for _, part := range []string{"cur", "new"} {
		entries, err := os.ReadDir(filepath.Join(p.home, maildir, part))
		if err != nil {
			p.t.Fatal(err)
		}
		for _, e := range entries {
			found = append(found, part+"/"+e.Name())
		}
	}
	return found
}

// files lists all there is below the home directory's Maildir.
func (p *mailProgram) files() []string {
	p.t.Helper()
	var all []string
	err := filepath.WalkDir(filepath.Join(p.home, "mail"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasPrefix(d.Name(), ".") {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return all
}

// withSubject returns the one message in a Maildir that has the subject.
func (p *mailProgram) withSubject(maildir, subject string) string {
	p.t.Helper()
	for _, name := range p.messagesIn(maildir) {
		text, err := os.ReadFile(filepath.Join(p.home, maildir, name))
		if err != nil {
			p.t.Fatal(err)
		}
		if strings.Contains(string(text), "\nSubject: "+subject+"\n") || strings.Contains(string(text), "\nSubject: "+subject+"\r\n") {
			return name
		}
	}
	p.t.Fatalf("%s: no message %q", maildir, subject)
	return ""
}

// subjects lists a mailbox: each message's subject and flags.
func (p *mailProgram) subjects(mailbox string) []string {
	p.t.Helper()
	c := p.login("alice")
	c.ok("EXAMINE " + mailbox)
	var found []string
	for _, line := range c.ok("UID FETCH 1:* (FLAGS ENVELOPE)") {
		words, _ := parseWords(line)
		items := words[len(words)-1].list
		item := func(name string) word {
			i := slices.IndexFunc(items, func(w word) bool { return w.text == name })
			return items[i+1]
		}
		flags := item("FLAGS").list
		sortFlagWords(flags)
		found = append(found, strings.TrimSpace(item("ENVELOPE").list[1].text+" "+joinWords(flags)))
	}
	c.ok("LOGOUT")
	slices.Sort(found)
	return found
}

// state says whether anything changed in an account's mailboxes.
func (p *mailProgram) state(mailboxes ...string) []string {
	p.t.Helper()
	c := p.login("alice")
	var all []string
	for _, m := range mailboxes {
		all = append(all, c.ok("STATUS "+m+" (MESSAGES UIDNEXT UIDVALIDITY HIGHESTMODSEQ)")...)
	}
	c.ok("LOGOUT")
	return all
}

// synchronises plays a day of a program that keeps a Maildir like the server:
// changes go both ways, and where there are none nothing changes.
func (p *mailProgram) synchronises(sync func(), inbox, sub string) {
	p.t.Helper()
	c := p.login("alice")
	c.ok("CREATE Work/Sub")
	c.ok("SUBSCRIBE Work/Sub")
	for i := range 5 {
		c.append("INBOX", `\Seen`, message(fmt.Sprint("m", i), "text"))
	}
	c.append("Work/Sub", "", message("below", "text"))
	sync()
	if got := p.messagesIn(inbox); len(got) != 5 {
		p.t.Fatalf("INBOX: %q", got)
	}
	p.withSubject(sub, "below")

	// Here a message goes, one is flagged and one is new; there, too.
	remove, flag := p.withSubject(inbox, "m0"), p.withSubject(inbox, "m1")
	if err := os.Remove(filepath.Join(p.home, inbox, remove)); err != nil {
		p.t.Fatal(err)
	}
	flagged := strings.Replace(flag, ":2,S", ":2,FS", 1)
	if err := os.Rename(filepath.Join(p.home, inbox, flag), filepath.Join(p.home, inbox, flagged)); err != nil || flagged == flag {
		p.t.Fatal(flag, err)
	}
	local := strings.ReplaceAll(message("local", "written here"), "\r\n", "\n")
	if err := os.WriteFile(filepath.Join(p.home, inbox, "new", "1700000000.1_1.host"), []byte(local), 0o600); err != nil {
		p.t.Fatal(err)
	}
	c.ok("SELECT INBOX")
	c.ok(`STORE 3 +FLAGS (\Deleted)`)
	c.ok("EXPUNGE")
	c.ok(`UID STORE 4 +FLAGS (\Answered)`)
	c.append("INBOX", "", message("remote", "written there"))
	sync()
	expect(p.t, "INBOX there", p.subjects("INBOX"), `local`, `m1 \Flagged \Seen`, `m3 \Answered \Seen`, `m4 \Seen`, `remote`)
	var here []string
	for _, s := range []string{"local", "m1", "m3", "m4", "remote"} {
		here = append(here, p.withSubject(inbox, s))
	}
	if got := p.messagesIn(inbox); len(got) != len(here) {
		p.t.Errorf("INBOX here: %q", got)
	}

	there, files := p.state("INBOX", "Work/Sub"), p.files()
	sync()
	expect(p.t, "state there after a run without changes", p.state("INBOX", "Work/Sub"), there...)
	expect(p.t, "files here after a run without changes", p.files(), files...)
}

func TestMbsync(t *testing.T) {
	t.Parallel()
	p := newMailProgram(t, "mbsync")
	rc := p.file("mbsyncrc", `IMAPAccount a
Host %HOST
Port %PORT
User alice
Pass secret
SSLType None
AuthMechs LOGIN

IMAPStore there
Account a

MaildirStore here
Path %HOME/mail/
Inbox %HOME/mail/INBOX
SubFolders Verbatim

Channel all
Far :there:
Near :here:
Patterns *
Create Both
Expunge Both
SyncState *
`)
	if err := os.Mkdir(filepath.Join(p.home, "mail"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.synchronises(func() { p.run("", "-c", rc, "-a") }, "mail/INBOX", "mail/Work/Sub")
}

func TestOfflineIMAP(t *testing.T) {
	t.Parallel()
	p := newMailProgram(t, "offlineimap")
	rc := p.file("offlineimaprc", `[general]
accounts = a
metadata = %HOME/meta
[Account a]
localrepository = here
remoterepository = there
[Repository here]
type = Maildir
localfolders = %HOME/mail
[Repository there]
type = IMAP
remotehost = %HOST
remoteport = %PORT
remoteuser = alice
remotepass = secret
ssl = no
starttls = no
auth_mechanisms = LOGIN
`)
	p.synchronises(func() { p.run("", "-c", rc, "-o", "-u", "basic") }, "mail/INBOX", "mail/Work.Sub")
}

// TestMutt sends a message, of which a copy goes into Sent, and reads, flags and
// deletes on a terminal.
func TestMutt(t *testing.T) {
	t.Parallel()
	testenv.Program(t, "mutt")
	p := newMailProgram(t, "script") // gives it a terminal
	rc := p.file("muttrc", `set imap_user=alice imap_pass=secret ssl_starttls=no ssl_force_tls=no imap_authenticators=login
set folder=imap://%HOST:%PORT/ spoolfile=imap://%HOST:%PORT/INBOX record=imap://%HOST:%PORT/Sent
set sendmail=/bin/true copy=yes confirmappend=no confirmcreate=no delete=yes quit=yes move=no wait_key=no use_envelope_from=no
set from=alice@example.com sort=mailbox-order mark_old=no header_cache=%HOME/cache
`)
	c := p.login("alice")
	for i := range 3 {
		c.append("INBOX", "", message(fmt.Sprint("m", i), "text"))
	}
	p.run("", "-qec", "mutt -n -F "+rc+" -s 'sent copy' bob@example.com < "+p.file("body", "hello\n"), "/dev/null")
	expect(t, "Sent", p.subjects("Sent"), `sent copy \Seen`)
	p.run("", "-qec", "mutt -n -F "+rc+` -e 'push "<first-entry><flag-message><delete-message><sync-mailbox><last-entry><display-message><exit><quit>"'`, "/dev/null")
	expect(t, "INBOX", p.subjects("INBOX"), `m0 \Flagged`, `m2 \Seen`)
}

func TestFetchmail(t *testing.T) {
	t.Parallel()
	p := newMailProgram(t, "fetchmail")
	c := p.login("alice")
	for i := range 3 {
		c.append("INBOX", "", message(fmt.Sprint("m", i), "a body of fetchmail"))
	}
	rc := p.file("fetchmailrc", `poll %HOST protocol IMAP port %PORT auth password
  user "alice" password "secret" sslproto "" mda "cat >> %HOME/fetched" no keep
`)
	p.run("", "-f", rc, "--nodetach", "--pidfile", filepath.Join(p.home, "pid"), "--invisible")
	text, err := os.ReadFile(filepath.Join(p.home, "fetched"))
	if err != nil || strings.Count(string(text), "a body of fetchmail") != 3 {
		t.Errorf("fetched: %v %q", err, text)
	}
	expect(t, "INBOX", p.subjects("INBOX"))
}
