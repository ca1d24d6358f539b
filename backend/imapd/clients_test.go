package imapd

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/internal/testenv"
)

// TestGoIMAPClient drives the server with a client that shares no code with it.
func TestGoIMAPClient(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	exists := make(chan uint32, 10)
	dial := func() *imapclient.Client {
		c, err := imapclient.DialInsecure(s.addr, &imapclient.Options{UnilateralDataHandler: &imapclient.UnilateralDataHandler{
			Mailbox: func(data *imapclient.UnilateralDataMailbox) {
				if data.NumMessages != nil {
					exists <- *data.NumMessages
				}
			},
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	c := dial()
	if err := c.Login("alice", "wrong").Wait(); err == nil {
		t.Error("wrong password is accepted")
	}
	must("login", c.Login("alice", "secret").Wait())
	must("create", c.Create("Entwürfe/2024", nil).Wait())
	boxes, err := c.List("", "*", &imap.ListOptions{ReturnStatus: &imap.StatusOptions{NumMessages: true, Size: true}}).Collect()
	must("list", err)
	names := map[string]*imap.ListData{}
	for _, b := range boxes {
		names[b.Mailbox] = b
	}
	if names["INBOX"] == nil || names["Entwürfe/2024"] == nil || names["Sent"] == nil || names["INBOX"].Status == nil {
		t.Errorf("list: %v", names)
	}

	text := message("go-imap", "hello\r\nworld")
	app := c.Append("INBOX", int64(len(text)), &imap.AppendOptions{Flags: []imap.Flag{imap.FlagSeen, "$Label"}, Time: time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)})
	_, err = app.Write([]byte(text))
	must("append", err)
	must("append", app.Close())
	appended, err := app.Wait()
	must("append", err)

	box, err := c.Select("INBOX", nil).Wait()
	must("select", err)
	if box.NumMessages != 1 || appended.UID != 1 || box.UIDValidity != appended.UIDValidity {
		t.Errorf("select: %+v after %+v", box, appended)
	}
	fetched, err := c.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{
		UID: true, Flags: true, Envelope: true, InternalDate: true, RFC822Size: true,
		BodyStructure: &imap.FetchItemBodyStructure{Extended: true},
		BodySection: []*imap.FetchItemBodySection{
			{Peek: true}, {Specifier: imap.PartSpecifierText, Peek: true, Partial: &imap.SectionPartial{Offset: 1, Size: 4}},
		},
	}).Collect()
	must("fetch", err)
	m := fetched[0]
	if m.UID != 1 || m.Envelope.Subject != "go-imap" || m.RFC822Size != int64(len(text)) || m.InternalDate.Unix() != 1577934245 ||
		m.Envelope.From[0].Addr() != "alice@example.com" || m.BodyStructure.MediaType() != "text/plain" || len(m.Flags) != 2 {
		t.Errorf("fetch: %+v %+v", m, m.Envelope)
	}
	if got := m.FindBodySection(&imap.FetchItemBodySection{Peek: true}); string(got) != text {
		t.Errorf("body: %q", got)
	}
	partial := &imap.FetchItemBodySection{Specifier: imap.PartSpecifierText, Peek: true, Partial: &imap.SectionPartial{Offset: 1, Size: 4}}
	if got := m.FindBodySection(partial); string(got) != "ello" {
		t.Errorf("partial: %q", got)
	}

	found, err := c.UIDSearch(&imap.SearchCriteria{Body: []string{"WORLD"}, Flag: []imap.Flag{imap.FlagSeen}}, &imap.SearchOptions{ReturnAll: true, ReturnCount: true}).Wait()
	must("search", err)
	if found.Count != 1 || len(found.AllUIDs()) != 1 {
		t.Errorf("search: %+v", found)
	}
	stored, err := c.Store(imap.UIDSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagFlagged}}, nil).Collect()
	must("store", err)
	if len(stored) != 1 || len(stored[0].Flags) != 3 {
		t.Errorf("store: %+v", stored)
	}
	copied, err := c.Copy(imap.UIDSetNum(1), "Entwürfe/2024").Wait()
	must("copy", err)
	if copied.SourceUIDs.String() != "1" || copied.DestUIDs.String() != "1" {
		t.Errorf("copy: %+v", copied)
	}
	moved, err := c.Move(imap.SeqSetNum(1), "Trash").Wait()
	must("move", err)
	if src, _ := moved.SourceUIDs.(imap.UIDSet); src.String() != "1" {
		t.Errorf("move: %+v", moved)
	}
	st, err := c.Status("INBOX", &imap.StatusOptions{NumMessages: true, UIDNext: true}).Wait()
	must("status", err)
	if *st.NumMessages != 0 || st.UIDNext != 2 {
		t.Errorf("status: %+v", st)
	}

	for len(exists) > 0 {
		<-exists
	}
	idle, err := c.Idle()
	must("idle", err)
	other := s.login("alice")
	other.append("INBOX", "", text)
	select {
	case n := <-exists:
		if n != 1 {
			t.Errorf("idle: %d messages", n)
		}
	case <-time.After(soon):
		t.Error("idle tells nothing")
	}
	must("end of idle", idle.Close())
	must("end of idle", idle.Wait())
	must("expunge of none", c.Expunge().Close())
	must("unselect", c.Unselect().Wait())
	must("delete", c.Delete("Entwürfe/2024").Wait())
	must("logout", c.Logout().Wait())
}

// imaplibScript is a session of Python's client: the third implementation that
// has to agree.
const imaplibScript = `
import imaplib, sys
host, port = sys.argv[1].rsplit(":", 1)
m = imaplib.IMAP4(host, int(port))
def ok(what, r):
    typ, data = r
    assert typ == "OK", (what, typ, data)
    return data
try:
    m.login("alice", "wrong"); assert False
except imaplib.IMAP4.error as e:
    assert b"AUTHENTICATIONFAILED" in e.args[0] or "AUTHENTICATIONFAILED" in str(e), e
m.authenticate("PLAIN", lambda _: b"\0alice\0secret")
assert "IDLE" in m.capability()[1][0].decode() and "UIDPLUS" in m.capability()[1][0].decode()
ok("create", m.create('"a box"'))
ok("subscribe", m.subscribe('"a box"'))
assert any(b'"a box"' in l for l in ok("lsub", m.lsub()))
assert len(ok("list", m.list())) >= 6
msg = b"From: x@example.com\r\nSubject: imaplib\r\n\r\nbody of imaplib\r\n"
for i in range(3):
    ok("append", m.append('"a box"', r"(\Seen)", imaplib.Time2Internaldate(1577934245), msg))
assert ok("select", m.select('"a box"')) == [b"3"]
data = ok("fetch", m.fetch("1:3", "(UID FLAGS RFC822)"))
assert data[0][1] == msg, data
assert data[0][0].startswith(b"1 (UID 1 FLAGS (\\Seen) RFC822 {"), data
assert ok("search", m.search(None, "SUBJECT", "imaplib")) == [b"1 2 3"]
assert ok("search", m.uid("SEARCH", "BODY", '"body of"')) == [b"1 2 3"]
m.literal = "grüße".encode()
assert ok("search", m.uid("SEARCH", "CHARSET", "UTF-8", "SUBJECT")) == [b""]
ok("store", m.store("2", "+FLAGS", r"(\Deleted)"))
assert ok("expunge", m.expunge()) == [b"2"]
ok("copy", m.copy("1", "INBOX"))
ok("move", m.uid("MOVE", "3", "INBOX"))
assert ok("status", m.status("INBOX", "(MESSAGES UNSEEN UIDNEXT)"))[0].startswith(b"INBOX (MESSAGES 2 UIDNEXT 3 UNSEEN 0"), m.status("INBOX", "(MESSAGES UNSEEN UIDNEXT)")
ok("examine", m.select("INBOX", readonly=True))
assert m.uid("STORE", "1", "+FLAGS", r"(\Deleted)")[0] == "NO"
ok("namespace", m.namespace())
ok("check", m.check())
ok("close", m.close())
ok("rename", m.rename('"a box"', '"b box"'))
ok("delete", m.delete('"b box"'))
assert m.logout()[0] == "BYE"
print("done")
`

func TestPythonImaplib(t *testing.T) {
	t.Parallel()
	python := testenv.Program(t, "python3")
	s := startServer(t, testConfig())
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "-c", imaplibScript, s.addr)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil || !strings.Contains(out.String(), "done") {
		t.Fatalf("imaplib: %v\n%s", err, out.String())
	}
}

// TestCurl lists and reads with libcurl's IMAP.
func TestCurl(t *testing.T) {
	t.Parallel()
	curl := testenv.Program(t, "curl")
	s := startServer(t, testConfig())
	text := message("curl", "read by curl")
	s.login("alice").append("INBOX", "", text)
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	out, err := exec.CommandContext(ctx, curl, "-s", "--user", "alice:secret", "imap://"+s.addr+"/INBOX/;UID=1").CombinedOutput()
	if err != nil || string(out) != text {
		t.Errorf("curl: %v %q", err, out)
	}
}
