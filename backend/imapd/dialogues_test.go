package imapd

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/backend/sessions/sessionstest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// TestMain ends the Dovecot that tests share.
func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// dialogue is one file of testdata/dialogues: a script that is played to
// both servers, for an account of its own. Lines of the script are
//
//	# a comment
//	a COMMAND       session a runs a command; it logs in when it is first named
//	a +COMMAND      sends a command and reads up to its continuation or its end
//	a =TEXT         sends a line and reads up to the tagged reply
//	a <COMMAND      sends a command and reads nothing
//	a >             reads up to the last reply of the commands sent with <
//	a ?WORD         reads up to an untagged response with the word
//	a !             reads to the end of the connection
//	a mark NAME     names the HIGHESTMODSEQ told last: {NAME} from now on
//	a deflate       compresses from now on, behind COMPRESS
//	each a COMMAND  for each message of use: # is its number
//	use FILE        appends the messages of another archive to INBOX
//
// Sessions with a capital letter do not log in; a session a@bob belongs to
// another account, bob. In a command {@NAME} is a file of the archive as a
// literal, {!c3a9} octets in hexadecimal, {v} the UIDVALIDITY told last, {user}
// the login name and {user.bob} that of bob.
type dialogue struct {
	name     string
	steps    []string
	files    map[string]string
	messages []string // by number, from use
}

// anyone lets everybody log in whose password is "secret".
type anyone struct{ auth }

func (anyone) Login(_ context.Context, login, password string, _ mail.Client) (mail.Identity, error) {
	if password != "secret" {
		return mail.Identity{}, status.New(status.AuthFailed, nil)
	}
	return mail.Identity{Authentication: login, Authorization: login, Mechanism: "LOGIN", Verifier: "test"}, nil
}

func (anyone) Account(_ context.Context, login string) (mail.Account, error) {
	return mail.Account{Name: login, QuotaOctets: 10 << 20, QuotaMessages: 1000}, nil
}

func (a anyone) Start(ctx context.Context, _ string, client mail.Client) (sessions.Authentication, error) {
	return sessionstest.Plain(func(login, password string) (mail.Identity, error) { return a.Login(ctx, login, password, client) }), nil
}

// dialogueSettings are Dovecot's settings that mean what ours do.
const dialogueSettings = `
mail_location = sdbox:~/sdbox
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
mail_plugins = quota acl zlib
imap_metadata = yes
mail_attribute_dict = file:%h/attributes
protocol imap {
  mail_plugins = quota acl imap_quota imap_acl imap_zlib
  mail_max_userip_connections = 0
}
namespace inbox {
  separator = /
  mailbox Drafts {
    auto = subscribe
    special_use = \Drafts
  }
  mailbox Sent {
    auto = subscribe
    special_use = \Sent
  }
  mailbox Junk {
    auto = subscribe
    special_use = \Junk
  }
  mailbox Trash {
    auto = subscribe
    special_use = \Trash
  }
}
namespace others {
  type = shared
  separator = /
  prefix = Other Users/%%u/
  location = sdbox:%%h/sdbox
  subscriptions = no
  list = children
}
plugin {
  acl = vfile::cache_secs=0
  acl_shared_dict = file:%h/../shared
  acl_anyone = allow
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:storage=10M:messages=1000
}
`

// TestDialoguesLikeDovecot plays every script to a real Dovecot and to us. What
// is not the same stands in docs/imap-dialogues.md, with the reason.
func TestDialoguesLikeDovecot(t *testing.T) {
	t.Parallel()
	scenes := readDialogues(t)
	var users []string
	for _, s := range scenes {
		users = append(users, s.users()...)
	}
	dovecot := testenv.DovecotWith(t, dialogueSettings, users...)
	ours := dialogueServer(t)
	explained := readDialogueTable(t)
	steps := 0
	for _, s := range scenes {
		theirs := &dialoguePlayer{t: t, scene: s, address: dovecot.IMAP, seats: map[string]*seat{}, marks: map[string]string{}}
		us := &dialoguePlayer{t: t, scene: s, address: ours, seats: map[string]*seat{}, marks: map[string]string{}}
		for _, step := range s.expanded() {
			steps++
			want, got := theirs.play(step), us.play(step)
			if d, differs := compareAnswers(s.name+": "+s.title(step), want, got); differs && !explained.covers(d) {
				t.Errorf("%s:\nDovecot %s\nours    %s", d.where, d.theirs, d.ours)
			}
		}
		theirs.leave()
		us.leave()
	}
	if steps < 300 {
		t.Errorf("%d steps are too few", steps)
	}
	for _, row := range slices.Sorted(maps.Keys(explained.unused)) {
		t.Errorf("docs/imap-dialogues.md explains what does not differ: %s", row)
	}
}

func dialogueServer(t *testing.T) string {
	t.Helper()
	cfg := testConfig()
	cfg.MaxSessionsPerClient = 1 << 20
	cfg.Sharing = Sharing{Others: "Other Users", SeenShared: true}
	s, err := New(cfg, Deps{Store: openStore(t), Auth: anyone{newAuth()}, Accounts: anyone{newAuth()}, Audit: &sessionstest.Recorder{}, Sessions: sessions.NewRegistry()}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

const dialogueDir = "testdata/dialogues/"

func readDialogues(t *testing.T) []*dialogue {
	t.Helper()
	paths, err := filepath.Glob(dialogueDir + "*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var scenes []*dialogue
	for _, path := range paths {
		s := &dialogue{name: strings.TrimSuffix(filepath.Base(path), ".txtar"), files: map[string]string{}}
		for _, f := range parseDialogueArchive(t, path) {
			if f.Name == "script" {
				s.steps = strings.Split(string(f.Data), "\n")
				continue
			}
			s.files[f.Name] = string(f.Data)
		}
		s.use(t)
		if len(s.steps) > 0 {
			scenes = append(scenes, s)
		}
	}
	return scenes
}

// parseDialogueArchive reads an archive. Lines of its files end in CRLF; those
// of files in .raw are not ends of lines: they are in Go's way of quoting.
func parseDialogueArchive(t *testing.T, path string) []txtar.File {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range archive.Files {
		switch {
		case f.Name == "script":
		case strings.HasSuffix(f.Name, ".raw"):
			var text strings.Builder
			for line := range strings.Lines(string(f.Data)) {
				text.WriteString(unquoteLine(t, strings.TrimSuffix(line, "\n")))
			}
			archive.Files[i].Data = []byte(text.String())
		default:
			archive.Files[i].Data = bytes.ReplaceAll(f.Data, []byte("\n"), []byte("\r\n"))
		}
	}
	return archive.Files
}

func unquoteLine(t *testing.T, line string) string {
	t.Helper()
	var out []byte
	for line != "" {
		r, multi, rest, err := unquoteOctet(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if multi {
			out = append(out, string(r)...)
		} else {
			out = append(out, byte(r))
		}
		line = rest
	}
	return string(out)
}

// use puts "use" lines into effect: messages are appended one by one, with a
// date, so that both servers know the same of them.
func (s *dialogue) use(t *testing.T) {
	t.Helper()
	var steps []string
	for _, step := range s.steps {
		file, ok := strings.CutPrefix(step, "use ")
		if !ok {
			steps = append(steps, step)
			continue
		}
		for i, f := range parseDialogueArchive(t, dialogueDir+file) {
			s.files[f.Name] = string(f.Data)
			s.messages = append(s.messages, f.Name)
			steps = append(steps, fmt.Sprintf(`a APPEND INBOX (\Seen) "%2d-Feb-2021 10:%02d:00 +0200" {@%s}`, i%28+1, i, f.Name))
		}
	}
	s.steps = steps
}

func (s *dialogue) user() string { return s.name + "@example.com" }

// userOf is the login name of an account beside the scene's own, which is "".
func (s *dialogue) userOf(name string) string {
	if name == "" {
		return s.user()
	}
	return s.name + "." + name + "@example.com"
}

var otherSeat = regexp.MustCompile(`^\w+@(\w+) `)

// users are the login names of all accounts.
func (s *dialogue) users() []string {
	users := []string{s.user()}
	for _, step := range s.steps {
		if m := otherSeat.FindStringSubmatch(step); m != nil && !slices.Contains(users, s.userOf(m[1])) {
			users = append(users, s.userOf(m[1]))
		}
	}
	return users
}

// expanded is the script without comments and with each step of "each".
func (s *dialogue) expanded() []string {
	var steps []string
	for _, step := range s.steps {
		each, all := strings.CutPrefix(step, "each ")
		switch {
		case step == "" || strings.HasPrefix(step, "#"):
		case all:
			for i := range s.messages {
				steps = append(steps, strings.Replace(each, "#", fmt.Sprint(i+1), 1))
			}
		default:
			steps = append(steps, step)
		}
	}
	return steps
}

var fetchOfOne = regexp.MustCompile(`^a FETCH (\d+) `)

// title names a step; FETCH of one message with the name of the message.
func (s *dialogue) title(step string) string {
	m := fetchOfOne.FindStringSubmatch(step)
	for i, name := range s.messages {
		if m != nil && m[1] == fmt.Sprint(i+1) {
			return strings.Replace(step, m[1], name, 1)
		}
	}
	return step
}

// dialoguePlayer plays a script to one of the servers.
type dialoguePlayer struct {
	t       *testing.T
	scene   *dialogue
	address string
	seats   map[string]*seat
	marks   map[string]string
}

// seat is one session.
type seat struct {
	*client
	pending []string // tags of commands whose replies have not been read
	modSeq  string   // told last
}

var insertion = regexp.MustCompile(`\{([@!]?)([\w.-]+)\}`)

// fill puts in what stands in braces; literals of numbers stay.
func (p *dialoguePlayer) fill(command string) string {
	return insertion.ReplaceAllStringFunc(command, func(found string) string {
		m := insertion.FindStringSubmatch(found)
		switch {
		case m[1] == "@":
			text, ok := p.scene.files[m[2]]
			if !ok {
				p.t.Fatalf("%s: no file %s", p.scene.name, m[2])
			}
			return fmt.Sprintf("{%d+}\r\n%s", len(text), text)
		case m[1] == "!":
			octets, err := hex.DecodeString(m[2])
			if err != nil {
				p.t.Fatal(err)
			}
			return string(octets)
		case m[2] == "user":
			return p.scene.user()
		case strings.HasPrefix(m[2], "user."):
			return p.scene.userOf(m[2][len("user."):])
		case p.marks[m[2]] != "":
			return p.marks[m[2]]
		}
		return found
	})
}

func (p *dialoguePlayer) seat(name string) *seat {
	if s := p.seats[name]; s != nil {
		return s
	}
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		p.t.Fatal(err)
	}
	s := &seat{client: newClient(p.t, conn)}
	p.seats[name] = s
	s.line()
	if name == strings.ToLower(name) {
		_, account, _ := strings.Cut(name, "@")
		s.ok("LOGIN " + p.scene.userOf(account) + " secret")
	}
	return s
}

func (p *dialoguePlayer) leave() {
	for _, s := range p.seats {
		_ = s.conn.Close()
	}
}

// play runs one step and returns what came back, in one form.
func (p *dialoguePlayer) play(step string) []string {
	p.t.Helper()
	name, text, _ := strings.Cut(step, " ")
	s := p.seat(name)
	var raw []string
	if text == "" {
		p.t.Fatalf("%s: step %q", p.scene.name, step)
	}
	switch text[0] {
	case '+':
		s.begin(p.fill(text[1:]))
		raw = s.finish("+")
	case '=':
		s.say(p.fill(text[1:]))
		raw = s.finish()
	case '<':
		s.begin(p.fill(text[1:]))
	case '>':
		for len(s.pending) > 0 {
			raw = append(raw, s.finish()...)
		}
	case '?':
		raw = s.readTo(func(line string) bool { return strings.Contains(line, text[1:]) })
	case '!':
		raw = s.readTo(func(string) bool { return false })
	default:
		if mark, ok := strings.CutPrefix(text, "mark "); ok {
			p.marks[mark] = s.modSeq
			return nil
		}
		if text == "deflate" {
			s.deflate()
			return nil
		}
		s.begin(p.fill(text))
		raw = s.finish()
	}
	p.learn(s, raw)
	return canonicalAnswer(text, raw)
}

// deflate compresses both ways from now on.
func (s *seat) deflate() {
	w, _ := flate.NewWriter(s.conn, flate.DefaultCompression)
	s.r = bufio.NewReader(flate.NewReader(s.conn))
	s.conn = deflating{s.conn, w}
}

func (s *seat) begin(command string) {
	s.tag++
	tag := fmt.Sprintf("t%d", s.tag)
	s.pending = append(s.pending, tag)
	s.say(tag + " " + command)
}

// say sends a line. A lost connection shows in the answer.
func (s *seat) say(text string) { _, _ = io.WriteString(s.conn, text+"\r\n") }

// finish reads up to the reply of one command, whose tag it takes away, or to
// another tag: commands under way together may be answered in another order.
func (s *seat) finish(orTag ...string) []string {
	answered := ""
	lines := s.readTo(func(line string) bool {
		answered, _, _ = strings.Cut(line, " ")
		return slices.Contains(s.pending, answered) || slices.Contains(orTag, answered)
	})
	if last := len(lines) - 1; lines[last] == "closed" || lines[last] == "silence" {
		s.pending = nil
	} else {
		if slices.Contains(orTag, answered) {
			return lines
		}
		s.pending = slices.DeleteFunc(s.pending, func(tag string) bool { return tag == answered })
		lines[last] = strings.TrimPrefix(lines[last], answered+" ")
	}
	return lines
}

func (s *seat) readTo(last func(string) bool) []string {
	var lines []string
	for {
		s.patient()
		line, err := s.read()
		if err != nil {
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				_ = s.conn.Close()
				return append(lines, "silence")
			}
			return append(lines, "closed")
		}
		lines = append(lines, line)
		if last(line) {
			return lines
		}
	}
}

// learn notes the numbers that each server has of its own.
func (p *dialoguePlayer) learn(s *seat, lines []string) {
	for _, line := range lines {
		if m := validityTold.FindStringSubmatch(line); m != nil {
			p.marks["v"] = m[1]
		}
		if m := modSeqTold.FindStringSubmatch(line); m != nil {
			s.modSeq = m[1]
		}
	}
}
