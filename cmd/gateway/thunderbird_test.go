package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// thunderbird is the program with one account, in a profile of its own, without
// a screen.
type thunderbird struct {
	*site
	login   string
	profile string
	starts  int
	proc    *testenv.Process
	m       *marionette
}

func newThunderbird(s *site, login string) *thunderbird {
	s.t.Helper()
	b := &thunderbird{site: s, login: login, profile: filepath.Join(s.Dir, "profile")}
	prefs, err := template.ParseFiles("testdata/clients/thunderbird-prefs.js")
	must(s.t, err)
	var out bytes.Buffer
	must(s.t, prefs.Execute(&out, map[string]any{"Login": login, "IMAPS": s.Port["IMAPS"], "Submission": s.Port["Submission"]}))
	must(s.t, os.Mkdir(b.profile, 0o700))
	must(s.t, os.WriteFile(filepath.Join(b.profile, "user.js"), out.Bytes(), 0o600))
	b.open()
	b.does("remember(...arguments)", login, ldif.Password(login))
	return b
}

// open starts the program on its profile.
func (b *thunderbird) open() {
	b.t.Helper()
	path := testenv.Program(b.t, "thunderbird")
	if _, err := os.Stat("/usr/lib/thunderbird/thunderbird"); err == nil {
		path = "/usr/lib/thunderbird/thunderbird" // without the script around it, which would outlive it
	}
	b.starts++
	port := filepath.Join(b.profile, "MarionetteActivePort")
	must(b.t, os.RemoveAll(port))
	b.proc = testenv.Start(b.t, testenv.Command{
		Path: path, Args: []string{"--headless", "--marionette", "--no-remote", "--profile", b.profile}, StartTimeout: 3 * time.Minute,
		Env: []string{
			"HOME=" + b.profile, "MOZ_REMOTE_ALLOW_SYSTEM_ACCESS=1", "MOZ_CRASHREPORTER_DISABLE=1",
			"MOZ_LOG=IMAP:5,timestamp", "MOZ_LOG_FILE=" + filepath.Join(b.Dir, fmt.Sprintf("thunderbird%d", b.starts)),
		},
		Ready: func(context.Context) error {
			text, err := os.ReadFile(port)
			if err == nil {
				b.m, err = dialMarionette(string(text))
			}
			return err
		},
	})
	b.t.Cleanup(func() { _ = b.m.conn.Close() })
	steps, err := os.ReadFile("testdata/clients/thunderbird.js")
	must(b.t, err)
	_, err = b.m.run(string(steps))
	must(b.t, err)
	cert, err := os.ReadFile(filepath.Join(b.Dir, "cert.pem"))
	must(b.t, err)
	b.does("trust(...arguments)", string(cert), []int{b.Port["IMAPS"], b.Port["Submission"]})
}

// close ends the program as a person does.
func (b *thunderbird) close() {
	b.t.Helper()
	must(b.t, b.m.quit())
	select {
	case <-b.proc.Ended():
	case <-time.After(time.Minute):
		b.t.Fatal("Thunderbird does not end")
	}
}

// does runs one of the steps in thunderbird.js and returns what it returns.
func (b *thunderbird) does(step string, args ...any) json.RawMessage {
	b.t.Helper()
	value, err := b.m.run("return "+step, args...)
	if err != nil {
		b.t.Fatalf("%s: %v\nthe protocol is in %s", step, err, filepath.Join(b.Dir, "thunderbird*.moz_log"))
	}
	return value
}

// shows clicks on a folder until it has these messages, sees only looks at it.
func (b *thunderbird) shows(folder string, messages ...string) {
	b.t.Helper()
	b.does("shows(...arguments)", folder, slices.Concat([]string{}, messages))
}

func (b *thunderbird) sees(folder string, messages ...string) {
	b.t.Helper()
	b.does("sees(...arguments)", folder, slices.Concat([]string{}, messages))
}

// answers compares what a step returns with a list.
func (b *thunderbird) answers(step string, want ...string) {
	b.t.Helper()
	var got []string
	must(b.t, json.Unmarshal(b.does(step), &got))
	if !slices.Equal(got, want) {
		b.t.Errorf("%s: got %q, want %q", step, got, want)
	}
}

// otherDevice is a second client on the same account.
type otherDevice struct {
	t testing.TB
	c *imapclient.Client
}

func (s *site) otherDevice(login string) *otherDevice {
	s.t.Helper()
	c, err := s.imap(login, ldif.Password(login))
	must(s.t, err)
	s.t.Cleanup(func() { _ = c.Close() })
	return &otherDevice{t: s.t, c: c}
}

// messages lists a mailbox: subject and flags of each message.
func (d *otherDevice) messages(mailbox string) (found []string, err error) {
	box, err := d.c.Select(mailbox, nil).Wait()
	if err != nil || box.NumMessages == 0 {
		return nil, err
	}
	all := imap.SeqSet{{Start: 1}}
	messages, err := d.c.Fetch(all, &imap.FetchOptions{Envelope: true, Flags: true}).Collect()
	for _, m := range messages {
		if m.Envelope == nil { // the server told of flags that changed meanwhile
			continue
		}
		var flags []string
		for _, f := range m.Flags {
			flags = append(flags, string(f))
		}
		slices.Sort(flags)
		found = append(found, strings.Join(append([]string{m.Envelope.Subject}, flags...), " "))
	}
	return found, err
}

// has waits until a mailbox has these messages.
func (d *otherDevice) has(mailbox string, want ...string) {
	d.t.Helper()
	testenv.Eventually(d.t, time.Minute, func() error {
		got, err := d.messages(mailbox)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%s: got %q, want %q", mailbox, got, want)
		}
		return err
	})
}

// mailboxes lists those that fit a pattern.
func (d *otherDevice) mailboxes(pattern string, options *imap.ListOptions) (names []string) {
	d.t.Helper()
	list, err := d.c.List("", pattern, options).Collect()
	must(d.t, err)
	for _, m := range list {
		names = append(names, m.Mailbox)
	}
	return names
}

// flag sets flags of the message with a subject, expunge removes it.
func (d *otherDevice) flag(mailbox, subject string, flags ...imap.Flag) imap.UIDSet {
	d.t.Helper()
	_, err := d.c.Select(mailbox, nil).Wait()
	must(d.t, err)
	found, err := d.c.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Subject", Value: subject}}}, nil).Wait()
	must(d.t, err)
	uids := found.AllUIDs()
	if len(uids) != 1 {
		d.t.Fatalf("%s: %d messages %q", mailbox, len(uids), subject)
	}
	set := imap.UIDSetNum(uids...)
	must(d.t, d.c.Store(set, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: flags}, nil).Close())
	return set
}

func (d *otherDevice) expunge(mailbox, subject string) {
	d.t.Helper()
	set := d.flag(mailbox, subject, imap.FlagDeleted)
	must(d.t, d.c.UIDExpunge(set).Close())
}

// TestThunderbird plays a day: the account is set up, mail is sorted, answered,
// searched, drafted and sent, pushed and read without a network; meanwhile
// another device changes the same mailboxes, and the server goes and comes back.
func TestThunderbird(t *testing.T) {
	t.Parallel()
	testenv.Program(t, "thunderbird")
	s := newClientSite(t)
	for _, subject := range []string{"m0", "m1", "m2", "m3", "m4", "Grüße"} {
		must(t, s.inject("erin@example.org", []string{"bob@example.com"}, subject))
		s.waitFor("bob", subject, 1)
	}
	b := newThunderbird(s, "bob")
	other := s.otherDevice("bob")

	b.does("discover(['INBOX', 'Drafts', 'Sent', 'Junk', 'Trash'])")
	b.shows("INBOX", "m0", "m1", "m2", "m3", "m4", "Grüße")

	t.Log("folders")
	for _, folder := range []string{"Work", "Work/Süd", "Away", "Later"} {
		b.does("create(...arguments)", folder)
	}
	b.does("rename('Later', 'Archive')")
	b.does("discard('Away')")
	b.does("subscribe('Archive', false)")
	if got := other.mailboxes("*", nil); !slices.Equal(got, []string{"Archive", "Drafts", "INBOX", "Junk", "Sent", "Trash", "Trash/Away", "Work", "Work/Süd"}) {
		t.Errorf("mailboxes: %q", got)
	}
	if got := other.mailboxes("*", &imap.ListOptions{SelectSubscribed: true}); slices.Contains(got, "Archive") || !slices.Contains(got, "Work/Süd") {
		t.Errorf("subscriptions: %q", got)
	}
	b.does("subscribe('Archive', true)")

	t.Log("sorting")
	b.does("transfer('INBOX', ['m0', 'm1'], 'Work', false)")
	b.does("transfer('INBOX', ['m0'], 'Work/Süd', true)")
	b.shows("Work", "m0", "m1")
	b.shows("Work/Süd", "m0")
	b.shows("INBOX", "m1", "m2", "m3", "m4", "Grüße")
	b.does("read('INBOX', ['m1', 'm2'])")
	other.has("INBOX", `m1 \Seen`, `m2 \Seen`, "m3", "m4", "Grüße")
	b.does("read('INBOX', ['m1'], false)")
	b.does("star('INBOX', ['m2'])")
	b.does("tag('INBOX', ['m3', 'm4'], '$label1')")
	other.has("INBOX", "m1", `m2 \Flagged \Seen`, "m3 $label1", "m4 $label1", "Grüße")
	b.does("untag('INBOX', ['m4'], '$label1')")
	b.does("replied('INBOX', ['m4'])")
	other.has("Work", "m0", "m1")
	other.has("Work/Süd", "m0")
	other.has("INBOX", "m1", `m2 \Flagged \Seen`, "m3 $label1", `m4 \Answered`, "Grüße")

	t.Log("searching")
	b.answers("search('INBOX', 'Subject', 'Contains', 'M3')", "m3")
	b.answers("search('INBOX', 'Subject', 'Contains', 'GRÜSSE')")
	b.answers("search('INBOX', 'Subject', 'Contains', 'GRÜß')", "Grüße")
	b.answers("search('INBOX', 'Body', 'Contains', 'dear reader')", "Grüße", "m1", "m2", "m3", "m4")
	b.answers("search('INBOX', 'Sender', 'DoesntContain', 'erin')")

	t.Log("writing")
	b.does("write('nsMsgSaveAsDraft', 'carol@example.com', 'a draft', 'Dear Carol,')")
	b.does("write('nsMsgDeliverNow', 'carol@example.com', 'a letter', 'Dear Carol, here it is.')")
	s.waitFor("carol", "a letter", 1)
	b.shows("Drafts", "a draft")
	b.shows("Sent", "a letter read")
	other.has("Drafts", `a draft \Draft`)
	other.has("Sent", `a letter \Seen`)

	t.Log("what others do is seen without asking")
	must(t, s.inject("erin@example.org", []string{"bob@example.com"}, "pushed"))
	b.sees("INBOX", "m1", "m2 read starred", "m3 $label1", "m4 replied", "Grüße", "pushed")
	other.flag("INBOX", "pushed", imap.FlagSeen, "$label2")
	other.expunge("INBOX", "m1")
	b.sees("INBOX", "m2 read starred", "m3 $label1", "m4 replied", "Grüße", "pushed read $label2")

	t.Log("deleting")
	b.does("remove('INBOX', ['m3', 'pushed'])")
	b.shows("Trash", "m3 $label1", "pushed read $label2")
	other.has("INBOX", `m2 \Flagged \Seen`, `m4 \Answered`, "Grüße")
	b.does("emptyTrash()")
	other.has("Trash")
	if got := other.mailboxes("Trash/*", nil); len(got) > 0 {
		t.Errorf("in the trash: %q", got)
	}
	b.does("void (server.QueryInterface(Ci.nsIImapIncomingServer).deleteModel = Ci.nsMsgImapDeleteModels.IMAPDelete)")
	b.does("remove('Work', ['m1'])")
	other.has("Work", "m0", `m1 \Deleted \Seen`) // whoever deletes has read
	b.does("compact('Work')")
	other.has("Work", "m0")

	t.Log("without a network")
	b.does("keep('Work')")
	b.does("goOffline()")
	if got := string(b.does("source('Work', 'm0', true)")); !strings.Contains(got, "Dear reader") {
		t.Errorf("read without a network: %s", got)
	}
	b.does("star('Work', ['m0'])")
	b.does("transfer('INBOX', ['Grüße'], 'Work', true)")
	other.has("Work", "m0")
	b.does("goOnline()")
	other.has("Work", `m0 $MDNSent \Flagged`, "Grüße") // Thunderbird sets both when it comes back
	other.has("INBOX", `m2 \Flagged \Seen`, `m4 \Answered`)

	// CONDSTORE is off in Thunderbird as it comes: with it, messages that others
	// expunge while it waits stay until the folder is opened again. It is used on
	// connections that are not new, so there is to be just one.
	b.does("void Services.prefs.setBoolPref('mail.server.server1.use_condstore', true)")
	b.does("void Services.prefs.setIntPref('mail.server.server1.max_cached_connections', 1)")

	t.Log("the server goes and comes back")
	s.proc.Stop()
	s.start()
	other = s.otherDevice("bob")
	other.flag("INBOX", "m4", imap.FlagSeen)
	b.shows("INBOX", "m2 read starred", "m4 read replied")
	must(t, s.inject("erin@example.org", []string{"bob@example.com"}, "after"))
	b.shows("INBOX", "m2 read starred", "m4 read replied", "after")

	t.Log("and so does Thunderbird")
	b.close()
	other.flag("INBOX", "after", imap.FlagAnswered)
	other.expunge("INBOX", "m2")
	must(t, s.inject("erin@example.org", []string{"bob@example.com"}, "meanwhile"))
	s.waitFor("bob", "meanwhile", 1)
	b.open()
	b.shows("Work", "m0 starred", "Grüße")
	b.shows("INBOX", "m4 read replied", "after replied", "meanwhile")
	b.shows("Work", "m0 starred", "Grüße")
	other.flag("INBOX", "after", imap.FlagSeen)
	b.shows("INBOX", "m4 read replied", "after read replied", "meanwhile")
	b.understood()
}

// understood fails when Thunderbird took a line of ours for a broken one, or a
// command of its was refused, or it used none of what it should have.
func (b *thunderbird) understood() {
	b.t.Helper()
	paths, err := filepath.Glob(filepath.Join(b.Dir, "thunderbird*.moz_log"))
	must(b.t, err)
	var all []byte
	for _, path := range paths {
		text, err := os.ReadFile(path)
		must(b.t, err)
		all = append(all, text...)
	}
	for line := range strings.Lines(string(all)) {
		_, told, _ := strings.Cut(line, "CreateNewLineFromSocket: ")
		tag, told, _ := strings.Cut(told, " ")
		refused := tag != "*" && (strings.HasPrefix(told, "BAD ") || strings.HasPrefix(told, "NO "))
		if refused || strings.Contains(line, "Syntax Error") {
			b.t.Errorf("Thunderbird's protocol: %s", line)
		}
	}
	for _, used := range []string{"COMPRESS DEFLATE", "ENABLE UTF8=ACCEPT", "IDLE", "(CONDSTORE)", "uid move", "getquotaroot", "return (special-use)"} {
		if !strings.Contains(string(all), used) {
			b.t.Errorf("Thunderbird never said %q", used)
		}
	}
}
