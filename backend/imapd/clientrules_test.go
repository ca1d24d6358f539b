package imapd

import (
	"strings"
	"testing"
	"time"
)

const outlookID = `ID ("name" "Microsoft Outlook 2013" "version" "15.0.4420" "vendor" "Microsoft")`

func outlook(rule ClientRule) Config {
	cfg := testConfig()
	rule.Name, rule.Match = "Outlook", map[string]string{"name": "microsoft outlook*", "version": "<16"}
	cfg.Clients = []ClientRule{rule}
	return cfg
}

// A client that tells who it is, is told what it may still use; another is not.
func TestClientWithoutCapabilities(t *testing.T) {
	t.Parallel()
	s := startServer(t, outlook(ClientRule{Without: []string{"compress=deflate", "SPECIAL-USE", "APPENDLIMIT"}}))
	c, other := s.login("alice"), s.login("alice")
	if caps := c.ok("CAPABILITY")[0]; !strings.Contains(caps, " COMPRESS=DEFLATE") || !strings.Contains(caps, " SPECIAL-USE ") {
		t.Errorf("before ID: %s", caps)
	}
	lines := c.ok(outlookID)
	if len(lines) != 2 || !strings.HasPrefix(lines[1], "* CAPABILITY IMAP4rev1 ") {
		t.Fatalf("ID: %q", lines)
	}
	for _, name := range []string{" COMPRESS=DEFLATE", " SPECIAL-USE", " APPENDLIMIT"} {
		if strings.Contains(lines[1], name) || strings.Contains(c.ok("CAPABILITY")[0], name) {
			t.Errorf("%s is still told", name)
		}
	}
	expect(t, "LIST", c.ok(`LIST "" Sent`), `* LIST (\HasNoChildren) "/" Sent`)
	expect(t, "again", c.ok(outlookID), `* ID ("name" "Postern")`)
	expect(t, "LIST of another", other.ok(`LIST "" Sent`), `* LIST (\HasNoChildren \Sent) "/" Sent`)
	for _, id := range []string{
		`ID ("name" "Microsoft Outlook" "version" "16.0.1")`, `ID ("name" "Thunderbird" "version" "1")`,
		`ID ("name" "Microsoft Outlook")`, `ID ("name" "Microsoft Outlook" "version" NIL)`, "ID NIL",
	} {
		expect(t, id, other.ok(id), `* ID ("name" "Postern")`)
	}
	// The commands are there for whoever asks.
	c.fails("COMPRESS DEFLATE", "OK")
}

// A rule without patterns is for clients that tell nothing, too.
func TestRuleForEveryClient(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.Clients = []ClientRule{{Name: "all", Without: []string{"IDLE", "ID"}}}
	c := startServer(t, cfg).dial()
	if greeting := c.line(); strings.Contains(greeting, " ID ") || !strings.Contains(greeting, "IMAP4rev1") {
		t.Errorf("greeting: %s", greeting)
	}
	_, tagged := c.cmd("LOGIN alice secret")
	if strings.Contains(tagged, " IDLE ") || !strings.Contains(tagged, " NAMESPACE ") {
		t.Errorf("LOGIN: %s", tagged)
	}
}

// delay_new_mail: new messages are told where a program expects them, and
// expunges by others wait with them.
func TestDelayNewMail(t *testing.T) {
	t.Parallel()
	s := startServer(t, outlook(ClientRule{Workarounds: []string{"delay_new_mail"}}))
	c, other := s.login("alice"), s.login("alice")
	c.append("INBOX", "", message("one", "text"))
	c.append("INBOX", "", message("two", "text"))
	c.ok(outlookID)
	c.ok("SELECT INBOX")
	other.ok("SELECT INBOX")
	other.append("INBOX", "", message("three", "text"))
	expect(t, "UID FETCH", c.ok("UID FETCH 1:* (UID)"), "* 1 FETCH (UID 1)", "* 2 FETCH (UID 2)")
	other.ok(`STORE 1 +FLAGS (\Flagged \Deleted)`)
	expect(t, "flags are told", c.ok("UID SEARCH ALL"), `* 1 FETCH (UID 1 FLAGS (\Flagged \Deleted))`, "* SEARCH 1 2")
	other.ok("EXPUNGE")
	expect(t, "CREATE", c.ok("CREATE x"))
	expect(t, "STORE", c.ok(`STORE 2 +FLAGS (\Seen)`), `* 2 FETCH (FLAGS (\Seen))`)
	expect(t, "NOOP", c.ok("NOOP"), "* 1 EXPUNGE", "* 2 EXISTS")
	other.append("INBOX", "", message("four", "text"))
	expect(t, "without new mail expunges are told", other.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`))
	c.ok("NOOP")
	expect(t, "EXPUNGE", c.ok("EXPUNGE"), "* 1 EXPUNGE")
	other.append("INBOX", "", message("five", "text"))
	c.send("i IDLE\r\n")
	expect(t, "IDLE", []string{c.line(), c.line()}, "+ idling", "* 3 EXISTS")
	c.send("DONE\r\n")
	c.until("i")
}

func TestLsubFlags(t *testing.T) {
	t.Parallel()
	s := startServer(t, outlook(ClientRule{Workarounds: []string{"lsub_flags"}}))
	c := s.login("alice")
	c.ok("SUBSCRIBE gone")
	c.ok("CREATE above/below")
	c.ok("SUBSCRIBE above/below")
	expect(t, "LSUB", c.ok(`LSUB "" Sent`), `* LSUB () "/" Sent`)
	c.ok(outlookID)
	expect(t, "LSUB", c.ok(`LSUB "" Sent`), `* LSUB (\HasNoChildren \Sent) "/" Sent`)
	expect(t, "LSUB", c.ok(`LSUB "" gone`), `* LSUB (\NonExistent \Noselect \HasNoChildren) "/" gone`)
	expect(t, "LSUB", c.ok(`LSUB "" a%`), `* LSUB (\NonExistent \Noselect \HasChildren) "/" above`)
}

// XLIST is there for those who need it, and unknown to others.
func TestXList(t *testing.T) {
	t.Parallel()
	s := startServer(t, outlook(ClientRule{Workarounds: []string{"xlist"}}))
	c := s.login("alice")
	c.fails(`XLIST "" *`, "BAD")
	if lines := c.ok(outlookID); len(lines) != 2 || !strings.Contains(lines[1], " XLIST ") {
		t.Errorf("ID: %q", lines)
	}
	expect(t, "XLIST", c.ok(`XLIST "" %`),
		`* XLIST (\HasNoChildren \Drafts) "/" Drafts`, `* XLIST (\HasNoChildren \Inbox) "/" INBOX`, `* XLIST (\HasNoChildren \Spam) "/" Junk`,
		`* XLIST (\HasNoChildren \Sent) "/" Sent`, `* XLIST (\HasNoChildren \Trash) "/" Trash`)
}

// idle_alive says something now and then in IDLE.
func TestIdleAlive(t *testing.T) {
	t.Parallel()
	cfg := outlook(ClientRule{Workarounds: []string{"idle_alive"}})
	cfg.aliveEvery = 5 * time.Millisecond
	c := startServer(t, cfg).login("alice")
	c.ok(outlookID)
	c.ok("SELECT INBOX")
	c.send("i IDLE\r\n")
	expect(t, "IDLE", []string{c.line(), c.line(), c.line()}, "+ idling", "* OK Still here", "* OK Still here")
	c.send("DONE\r\n")
	if _, tagged := c.until("i"); !strings.HasPrefix(tagged, "OK") {
		t.Errorf("DONE: %s", tagged)
	}
	quiet := &session{cfg: &cfg}
	if tick, _ := quiet.aliveInIdle(); tick != nil {
		t.Error("a client without the workaround is told as well")
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		pattern, value string
		want           bool
	}{
		{"<16", "15.0.4420", true}, {"<16", "16.0.1", false}, {"<=16", "16.0.1", true}, {">16", "16.0.1", false},
		{">=16.0", "16", true}, {">=16.1", "16", false}, {"<2.1", "2.0.9 (beta)", true}, {"<16", "", false}, {"<16", "Build 15", false},
		{"<3", "2." + strings.Repeat("9", 40), true}, {"16.*", "16.0 (3696.120.41.1.1)", true}, {"16.?", "16.10", false},
		{"*mail", "com.samsung.android/email", true}, {"com.samsung*", "com.samsung.android/email", true},
	} {
		p, err := parsePattern("version", row.pattern)
		if err != nil || p.match(row.value) != row.want {
			t.Errorf("%s of %q: want %v, %v", row.pattern, row.value, row.want, err)
		}
	}
}

func FuzzIDPattern(f *testing.F) {
	f.Add("<16", "15.0.4420")
	f.Add("Microsoft*[a-z]", "microsoft outlook")
	f.Fuzz(func(_ *testing.T, pattern, value string) {
		if p, err := parsePattern("version", pattern); err == nil {
			p.match(value)
		}
	})
}
