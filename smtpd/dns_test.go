package smtpd

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	wire "github.com/miekg/dns"
	"golang.org/x/tools/txtar"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/dnsbl"
	"github.com/postern-mail/postern/policy/verify"
	"github.com/postern-mail/postern/status"
)

// The scenes of testdata/dns are scenes as in testdata/replay whose
// restrictions ask the DNS of testdata/dns/zone, or next hops. "replies" has
// what each dialogue comes to: the reply to its last command before QUIT. A
// scene without "postfix" has no counterpart there.

// dnsScene is a scene with what its dialogues come to.
type dnsScene struct {
	*replayScene
	postfix bool
	replies map[string]string
}

func readDNSScenes(t *testing.T) []dnsScene {
	t.Helper()
	files, err := filepath.Glob("testdata/dns/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenes: %v", err)
	}
	top := testenv.TempDir(t)
	if err := os.Chmod(top, 0o755); err != nil { // Postfix's processes run as another user
		t.Fatal(err)
	}
	var scenes []dnsScene
	others := newCast(t, top)
	for i, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		s := dnsScene{replayScene: readScene(t, filepath.Join(top, strconv.Itoa(i)), name, archive, others), replies: make(map[string]string)}
		for _, f := range archive.Files {
			if f.Name != "replies" {
				continue
			}
			for _, line := range nonEmptyLines(string(f.Data)) {
				dialogue, reply, _ := strings.Cut(line, " | ")
				s.replies[dialogue] = reply
			}
		}
		s.postfix = len(s.service.Settings) > 0
		scenes = append(scenes, s)
	}
	return scenes
}

// zone fills a name server: a line is a record, or "SERVFAIL NAME TYPE...", or
// "SILENT NAME TYPE..." for questions that get no answer.
func zone(t *testing.T, server *dnstest.Server) {
	t.Helper()
	text, err := os.ReadFile("testdata/dns/zone")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range nonEmptyLines(string(text)) {
		words := strings.Fields(line)
		switch words[0] {
		case "SERVFAIL":
			for _, kind := range words[2:] {
				server.Fail(words[1], kind, "SERVFAIL")
			}
		case "SILENT":
			for _, kind := range words[2:] {
				server.Answer(words[1], kind, noAnswer)
			}
		default:
			server.Add(line)
		}
	}
}

// noAnswer leaves a question without an answer, and nobody has to wait until
// that is certain: who asks is told to do so by TCP, and there hung up on. To
// resolvers that is what silence is, and no answer that comes late on a busy
// machine passes for it.
func noAnswer(w wire.ResponseWriter, q *wire.Msg) {
	if w.RemoteAddr().Network() != "udp" {
		_ = w.Close() // the client may have gone before
		return
	}
	m := new(wire.Msg).SetReply(q)
	m.Truncated = true
	_ = w.WriteMsg(m) // the same
}

// outside is what lies outside of a gateway: the DNS, and next hops.
type outside struct {
	resolver *dns.Resolver
	// patience is how long a client waits for what its next hop says of an
	// address.
	patience time.Duration
}

// answerTimeout is longer than any machine takes for an answer.
const answerTimeout = time.Minute

// newOutside is the outside of a dialogue, whose name says what is silent in it.
func newOutside(t *testing.T, server *dnstest.Server, dialogue string) *outside {
	t.Helper()
	resolver, err := dns.New(dns.Config{Servers: []string{server.Addr}, Timeout: answerTimeout, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	o := &outside{resolver: resolver, patience: answerTimeout}
	if dialogue == cellSilent {
		o.patience = 200 * time.Millisecond // in vain
	}
	return o
}

func (o *outside) stages(t testing.TB, domains policy.Domains) map[string]func(policy.Spec) (policy.Stage, error) {
	t.Helper()
	var patient []dnsbl.ListConfig
	for _, list := range []string{"bl.example", "wl.example", "dbl.example"} {
		patient = append(patient, dnsbl.ListConfig{Domain: list, Timeout: answerTimeout})
	}
	lists, err := dnsbl.New(dnsbl.Config{Lists: patient}, o.resolver, dnsbl.NewMemory(), hclog.NewNullLogger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := verify.New(verify.Config{PollCount: 2, PollDelay: o.patience}, &forgetful{}, nextHop, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := lists.Stages(domains)
	maps.Copy(all, verifier.Stages())
	return all
}

// forgetful remembers while a test runs.
type forgetful struct{ values sync.Map }

func (f *forgetful) Get(key string) ([]byte, bool) {
	value, found := f.values.Load(key)
	if !found {
		return nil, false
	}
	return value.([]byte), true
}

func (f *forgetful) Put(key string, value []byte, _ time.Time) { f.values.Store(key, value) }

// nextHop answers probes by the domain of the address.
func nextHop(ctx context.Context, to mail.Address) mail.Outcome {
	o := mail.Outcome{Recipient: to, Class: mail.Delivered, Reply: status.RecipientOK.Reply(), At: time.Now()}
	switch to.Domain {
	case "hit.example":
		o.Class, o.Reply = mail.Bounced, status.NoSuchUser.Reply()
	case "fail.example":
		o.Class, o.Reply = mail.Deferred, status.DirectoryDown.Reply()
	case "late.example":
		<-ctx.Done()
		o.Class = mail.Deferred
	}
	return o
}

// TestDNS holds the dialogues with us, each with a server that knows nothing
// yet.
func TestDNS(t *testing.T) {
	t.Parallel()
	server := dnstest.New(t)
	zone(t, server)
	for _, s := range readDNSScenes(t) {
		for _, r := range s.sessions {
			t.Run(s.name+"/"+r.name, func(t *testing.T) {
				t.Parallel()
				replies := s.withUs(t, r, server)
				if got := replies[max(0, len(replies)-2)]; got != s.replies[r.name] {
					t.Errorf("%s | %s\nwant %s", r.name, got, s.replies[r.name])
				}
			})
		}
	}
}

func (s dnsScene) withUs(t *testing.T, r replayed, server *dnstest.Server) []string {
	t.Helper()
	ours := s.ours
	ours.outside = newOutside(t, server, r.name)
	return r.withUs(t, ours.standIn(t))
}

// TestReplayDNS holds them with a real Postfix, too, in a network whose only
// name server is ours.
func TestReplayDNS(t *testing.T) {
	t.Parallel()
	testenv.Program(t, "postfix")
	if !testenv.InPrivateNetwork(t) {
		return
	}
	server := dnstest.NewAt(t, "127.0.0.1:53")
	zone(t, server)
	scenes := readDNSScenes(t)
	var services []*testenv.PostfixService
	for _, s := range scenes {
		if s.postfix {
			services = append(services, s.service)
		}
	}
	testenv.PostfixServices(t, replayBase, services)
	explained := readExplanations(t)
	var mu sync.Mutex // over explained
	for _, s := range scenes {
		if !s.postfix {
			continue
		}
		for _, r := range s.sessions {
			t.Run(s.name+"/"+r.name, func(t *testing.T) {
				t.Parallel()
				for _, d := range r.differences(s.name, r.withPostfix(t, s.service.Address, s.ours.cast), s.withUs(t, r, server)) {
					mu.Lock()
					covered := explained.covers(d)
					mu.Unlock()
					if !covered {
						t.Errorf("%s:\nPostfix %s\nours    %s", d.where, d.postfix, d.ours)
					}
				}
			})
		}
	}
}
