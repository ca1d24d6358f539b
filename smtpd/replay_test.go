package smtpd

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
)

// The replay has a real Postfix and us hold the same dialogues, and compares
// every reply. A scene of testdata/replay is an archive: "postfix" has the
// settings of one of its SMTP servers, "config" ours that mean the same,
// "sessions" a line for each dialogue; other files are tables, $DIR is where they
// lie, and cast.fill has more such names. What differs stands, with its reason, in docs/policy-compared.md.

// replayed is one dialogue: "name | address [name] | step; step".
type replayed struct {
	name  string
	addr  netip.Addr
	host  string
	steps []string
}

// replayBase is what the scenes have in common, for Postfix: the domains and
// people of fakeDirectory, and the lists of a listener of mode mx.
var replayBase = []string{
	"myhostname = mx.example.com",
	"mynetworks = 192.0.2.0/24",
	"virtual_mailbox_domains = example.com, second.example",
	"virtual_mailbox_maps = inline:{alice@example.com=x, bob@example.com=x, postmaster@example.com=x, postmaster@second.example=x}",
	"virtual_alias_maps = inline:{sales@example.com=alice@example.com}",
	"virtual_transport = hold:nowhere",
	"relay_domains = relayed.example",
	"recipient_delimiter = +",
	"smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination",
	"smtpd_sender_restrictions = reject_non_fqdn_sender",
	"smtpd_recipient_restrictions = reject_non_fqdn_recipient",
	"show_user_unknown_table_name = no",
	"smtpd_authorized_xclient_hosts = 127.0.0.1",
	"smtpd_forbid_bare_newline = no",
	"smtpd_error_sleep_time = 0",
	"smtpd_peername_lookup = no",
	"smtpd_helo_required = no",
	"smtpd_client_connection_count_limit = 0",
	"strict_rfc821_envelopes = yes",
	"inet_protocols = all",
}

// replayScene is a scene with both servers' addresses.
type replayScene struct {
	name     string
	service  *testenv.PostfixService
	ours     scene
	sessions []replayed
}

func readScenes(t *testing.T) ([]*replayScene, *cast) {
	t.Helper()
	files, err := filepath.Glob("testdata/replay/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenes: %v", err)
	}
	top := testenv.TempDir(t)
	if err := os.Chmod(top, 0o755); err != nil { // Postfix's processes run as another user
		t.Fatal(err)
	}
	var scenes []*replayScene
	others := newCast(t, top)
	for i, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		scenes = append(scenes, readScene(t, filepath.Join(top, strconv.Itoa(i)), strings.TrimSuffix(filepath.Base(file), ".txtar"), archive, others))
	}
	return scenes, others
}

func readScene(t *testing.T, dir, name string, archive *txtar.Archive, others *cast) *replayScene {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &replayScene{name: name, service: &testenv.PostfixService{}}
	s.ours.cast = others
	for _, f := range archive.Files {
		text := others.fill(string(f.Data), dir)
		switch f.Name {
		case "postfix":
			s.service.Settings = nonEmptyLines(text)
		case "config":
			decoder := json.NewDecoder(strings.NewReader(text))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&s.ours); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		case "sessions":
			for _, line := range nonEmptyLines(text) {
				s.sessions = append(s.sessions, readSession(t, line))
			}
		default:
			if err := os.WriteFile(filepath.Join(dir, f.Name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.ours.Networks = []string{"192.0.2.0/24"}
	return s
}

func nonEmptyLines(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return strings.TrimSpace(l) == "" || strings.HasPrefix(l, "#") })
}

func readSession(t *testing.T, line string) replayed {
	t.Helper()
	parts := strings.Split(line, " | ")
	if len(parts) != 3 {
		t.Fatalf("session %q", line)
	}
	address, host, _ := strings.Cut(parts[1], " ")
	r := replayed{name: parts[0], addr: netip.MustParseAddr(address), host: host}
	for step := range strings.SplitSeq(parts[2], "; ") {
		kind, rest, short := strings.Cut(step, ":")
		switch {
		case short && kind == "F":
			step = "MAIL FROM:<" + rest + ">"
		case short && kind == "T":
			step = "RCPT TO:<" + rest + ">"
		case short && kind == "H":
			step = "EHLO " + rest
		case short && kind == "A":
			step = plainAuth(rest)
		}
		if len(r.steps) == 0 && !strings.HasPrefix(step, "EHLO") && !strings.HasPrefix(step, "HELO") {
			r.steps = append(r.steps, "EHLO client.example")
		}
		r.steps = append(r.steps, step)
		if strings.HasPrefix(step, "TLS ") {
			r.steps = append(r.steps, "EHLO client.example")
		}
	}
	r.steps = append(r.steps, "QUIT")
	return r
}

// peer is a server that a dialogue is held with.
type peer struct {
	conn net.Conn
	in   *bufio.Reader
	cast *cast
}

func (p *peer) reply() string {
	var lines []string
	for {
		line, err := p.in.ReadString('\n')
		if err != nil {
			return strings.Join(append(lines, "closed"), " / ")
		}
		line = strings.TrimRight(line, "\r\n")
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, " / ")
		}
	}
}

func (p *peer) say(text string) { fmt.Fprintf(p.conn, "%s\r\n", text) } // a lost connection shows in the reply

// holds returns the replies of a dialogue, the greeting first.
func (p *peer) holds(steps []string) []string {
	replies := []string{p.reply()}
	for _, step := range steps {
		if step == "." && !strings.HasPrefix(replies[len(replies)-1], "354") {
			continue
		}
		if step == "." {
			step = "Subject: test\r\n\r\ntext\r\n."
		}
		if certificate, secured := strings.CutPrefix(step, "TLS "); secured {
			replies = append(replies, p.secure(certificate))
		} else {
			p.say(step)
			replies = append(replies, comparable(p.reply()))
		}
		if strings.Contains(replies[len(replies)-1], "closed") {
			break
		}
	}
	return replies
}

var (
	queuedAs   = regexp.MustCompile(`queued as \S+`)
	capability = regexp.MustCompile(`^250-(mx|PIPELINING|[A-Z])`)
)

// comparable takes out of a reply what cannot be the same.
func comparable(reply string) string {
	reply = queuedAs.ReplaceAllString(reply, "queued as ID")
	if capability.MatchString(reply) {
		return "250 (capabilities)"
	}
	return reply
}

func dialPeer(t *testing.T, others *cast, dial func() (net.Conn, error)) *peer {
	t.Helper()
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &peer{conn: conn, in: bufio.NewReader(conn), cast: others}
}

// withPostfix holds a dialogue with Postfix, whose XCLIENT makes us anybody.
func (r replayed) withPostfix(t *testing.T, address string, others *cast) []string {
	t.Helper()
	p := dialPeer(t, others, func() (net.Conn, error) { return net.Dial("tcp", address) })
	if greeting := p.reply(); !strings.HasPrefix(greeting, "220 ") {
		t.Fatalf("Postfix's greeting: %s\n", greeting)
	}
	ip := r.addr.String()
	if r.addr.Is6() {
		ip = "IPV6:" + ip
	}
	name, reverse := xclientNames(r.host)
	p.say("XCLIENT NAME=" + name + " REVERSE_NAME=" + reverse + " ADDR=" + ip + " PORT=4711")
	return p.holds(r.steps)
}

// xclientNames is what XCLIENT says of a client: "NAME", "" for one without a
// name, "?" for one whose name the DNS did not tell, "~NAME" for one whose name
// does not lead back to it.
func xclientNames(host string) (name, reverse string) {
	forged, isForged := strings.CutPrefix(host, "~")
	switch {
	case host == "":
		return "[UNAVAILABLE]", "[UNAVAILABLE]"
	case host == "?":
		return "[TEMPUNAVAIL]", "[TEMPUNAVAIL]"
	case isForged:
		return "[UNAVAILABLE]", forged
	default:
		return host, host
	}
}

// standIn is our server with clients from anywhere.
type standIn struct {
	net.Listener
	cast *cast
	log  *logbook

	mu   sync.Mutex
	next replayed
}

func (s *standIn) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return addressed{conn, net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.next.addr, 4711))}, nil
}

func (s *standIn) hostname(context.Context, netip.Addr) mail.ClientName {
	s.mu.Lock()
	defer s.mu.Unlock()
	return mail.ClientName{Hostname: s.next.host, Reverse: s.next.host, Naming: mail.NameVerified}
}

func (r replayed) withUs(t *testing.T, s *standIn) []string {
	t.Helper()
	s.mu.Lock()
	s.next = r
	s.mu.Unlock()
	return dialPeer(t, s.cast, func() (net.Conn, error) { return net.Dial("tcp", s.Addr().String()) }).holds(r.steps)
}

func (sc scene) standIn(t *testing.T) *standIn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &standIn{Listener: l, cast: sc.cast, log: newLogbook()}
	cfg := smtp.ServerConfig{
		Name: "test", Hostname: "mx.example.com", LookupHostname: s.hostname, ErrorDelay: time.Nanosecond, MaxMessageOctets: 10240000,
		MaxRecipients: sc.MaxRecipients, SoftBounce: sc.SoftBounce, RejectFooter: sc.RejectFooter, HeloRequired: sc.HeloRequired, LooseEnvelopes: sc.LooseEnvelopes,
		Noticed: s.log.Record, Pipelining: smtp.PipeliningTolerate, AllowInsecureAuth: true, TLS: sc.cast.serverTLS(t),
	}
	if sc.outside != nil {
		cfg.LookupHostname = ClientNames(sc.outside.resolver)
	}
	server, err := smtp.NewServer(cfg, sc.build(t, &fakeQueue{forget: true}, s.log), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, s) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// difference is a reply that is not the same.
type difference struct{ where, postfix, ours string }

// differences compares the replies of a dialogue.
func (r replayed) differences(scene string, theirs, us []string) []difference {
	var all []difference
	steps := append([]string{"greeting"}, r.steps...)
	for i := range min(len(theirs), len(us)) {
		if i == 0 && strings.HasPrefix(theirs[0], "220 ") && strings.HasPrefix(us[0], "220 ") {
			continue
		}
		if theirs[i] != us[i] {
			all = append(all, difference{scene + ", " + r.name + ", " + steps[i], theirs[i], us[i]})
		}
	}
	if len(theirs) != len(us) {
		all = append(all, difference{scene + ", " + r.name, fmt.Sprintf("%d replies", len(theirs)), fmt.Sprintf("%d replies", len(us))})
	}
	return all
}

// loggedDialogue is what we logged of a dialogue, the number of which says where
// Postfix's log has it.
type loggedDialogue struct {
	where  string
	number int
	ours   []string
}

// TestReplay holds every dialogue with a real Postfix and with us. Where the
// replies are the same, so is what the log says of decisions.
func TestReplay(t *testing.T) {
	t.Parallel()
	scenes, others := readScenes(t)
	var services []*testenv.PostfixService
	count := 0
	for _, s := range scenes {
		services = append(services, s.service)
		count += len(s.sessions)
	}
	if count < 300 {
		t.Errorf("%d dialogues are too few", count)
	}
	postfix := testenv.PostfixServices(t, slices.Concat(replayBase, withAuth(t)), services)
	waitForLog(t, postfix, 1) // the connection that saw that it is there, and that must not be told of among the dialogues
	var differences []difference
	var same []loggedDialogue // whose replies are the same: their logs are compared
	dialogues := 1            // one to see whether the server is there
	for _, s := range scenes {
		ours := s.ours.standIn(t)
		for _, r := range s.sessions {
			found := r.differences(s.name, r.withPostfix(t, s.service.Address, others), r.withUs(t, ours))
			dialogues++
			if written := ours.log.take(); len(found) == 0 {
				same = append(same, loggedDialogue{s.name + ", " + r.name, dialogues, written})
			}
			differences = append(differences, found...)
		}
	}
	last := readSession(t, "last | 192.0.2.7 | NOOP")
	last.withPostfix(t, scenes[0].service.Address, others)
	logged := waitForLog(t, postfix, dialogues+1)
	for _, d := range same {
		differences = append(differences, compareLogs(d.where, logged[d.number], d.ours)...)
	}
	explained := readExplanations(t)
	for _, d := range differences {
		if !explained.covers(d) {
			t.Errorf("%s:\nPostfix %s\nours    %s", d.where, d.postfix, d.ours)
		}
	}
	for _, row := range slices.Sorted(maps.Keys(explained.unused)) {
		t.Errorf("docs/policy-compared.md explains what does not differ: %s", row)
	}
}

// explanations are the rows of the table in docs/policy-compared.md.
type explanations struct {
	rows   map[string][2]*regexp.Regexp
	unused map[string]bool
}

// readExplanations reads rows "| `Postfix's reply` | `ours` | why |"; an
// asterisk stands for anything.
func readExplanations(t *testing.T) *explanations {
	t.Helper()
	text, err := os.ReadFile("../docs/policy-compared.md")
	if err != nil {
		t.Fatal(err)
	}
	e := &explanations{rows: map[string][2]*regexp.Regexp{}, unused: map[string]bool{}}
	for line := range strings.SplitSeq(string(text), "\n") {
		cells := strings.Split(line, " | ")
		if len(cells) != 3 || !strings.HasPrefix(cells[0], "| `") || !strings.HasPrefix(cells[1], "`") {
			continue
		}
		pattern := func(cell string) *regexp.Regexp {
			quoted := regexp.QuoteMeta(strings.Trim(strings.TrimPrefix(cell, "| "), "`"))
			return regexp.MustCompile("^" + strings.ReplaceAll(quoted, `\*`, ".*") + "$")
		}
		e.rows[line] = [2]*regexp.Regexp{pattern(cells[0]), pattern(cells[1])}
		e.unused[line] = true
	}
	return e
}

func (e *explanations) covers(d difference) bool {
	found := false
	for line, row := range e.rows {
		if row[0].MatchString(d.postfix) && row[1].MatchString(d.ours) {
			delete(e.unused, line)
			found = true
		}
	}
	return found
}
