package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
)

// stalling is a service of content steps that lets everybody wait until goOn.
type stalling interface {
	// waiting returns how many were kept waiting so far.
	waiting() int
	goOn()
}

// slowRspamd is a server that answers as rspamd does, when it is let.
type slowRspamd struct {
	URL     string
	asked   atomic.Int64
	release chan struct{}
	once    sync.Once
}

func startSlowRspamd(t testing.TB) *slowRspamd {
	t.Helper()
	r := &slowRspamd{release: make(chan struct{})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r.URL = "http://" + l.Addr().String()
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r.asked.Add(1)
		<-r.release
		fmt.Fprint(w, `{"action":"no action","score":0,"required_score":15,"symbols":{}}`)
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		r.goOn()
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return r
}

func (r *slowRspamd) waiting() int { return int(r.asked.Load()) }
func (r *slowRspamd) goOn()        { r.once.Do(func() { close(r.release) }) }

// waitFor waits until so many wait.
func waitForWaiting(t testing.TB, s stalling, want int) {
	t.Helper()
	testenv.Eventually(t, time.Minute, func() error {
		if n := s.waiting(); n < want {
			return fmt.Errorf("%d of %d wait for an answer", n, want)
		}
		return nil
	})
}

// withContent is the standard site with blocks of the gateway and a list.
func withContent(blocks, list string) string {
	return strings.Replace(standard, "gateway {\n", "gateway {\n"+blocks+"  policy \"content\" {\n"+list+"  }\n", 1)
}

const (
	patientMilter = `  milter "slow" {
    address         = "{{.Extra.filter}}"
    command_timeout = "5m"
    content_timeout = "5m"
  }
`
	milterStep = "    milter { use = milter.slow }\n"
)

// stalls are the ways to be kept waiting by a step of the list content.
var stalls = map[string]func(t *testing.T) (s stalling, blocks, list string, extra map[string]string){
	"milter at a field": func(t *testing.T) (stalling, string, string, map[string]string) {
		return stalledMilter(t, milterHeader)
	},
	"milter at the end": func(t *testing.T) (stalling, string, string, map[string]string) {
		return stalledMilter(t, milterEndOfBody)
	},
	"milter behind the header": func(t *testing.T) (stalling, string, string, map[string]string) {
		return stalledMilter(t, milterEndOfHeader)
	},
	"rspamd": func(t *testing.T) (stalling, string, string, map[string]string) {
		r := startSlowRspamd(t)
		return r, "", "    rspamd {\n      url     = \"{{.Extra.rspamd}}\"\n      timeout = \"5m\"\n    }\n", map[string]string{"rspamd": r.URL}
	},
}

func stalledMilter(t *testing.T, command byte) (stalling, string, string, map[string]string) {
	f := startFilter(t, &testFilter{stalls: command})
	return f, patientMilter, milterStep, map[string]string{"filter": f.Address}
}

// TestStopWhileContentIsAsked stops the server while a step waits for somebody
// else: an answer within the grace time is a message that is kept; without one
// the client is told to come again, the server ends, and nothing is half taken.
func TestStopWhileContentIsAsked(t *testing.T) {
	t.Parallel()
	for name, begin := range stalls {
		for _, answered := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, answered %v", name, answered), func(t *testing.T) {
				t.Parallel()
				slow, blocks, list, extra := begin(t)
				grace := "1s"
				if answered {
					grace = "1m"
				}
				s := newSite(t, "shutdown_grace = \""+grace+"\"\n"+withContent(blocks, list), extra).start()
				d := s.dial("MX")
				d.bring("bob@example.com", "in between")
				waitForWaiting(t, slow, 1)
				must(t, s.proc.Signal(syscall.SIGTERM))
				s.waitForLog("stopping")
				if answered {
					slow.goOn()
					d.expect("250 ")
				} else if reply, err := d.reply(); err != nil || !strings.HasPrefix(reply, "421 ") && !strings.HasPrefix(reply, "451 ") {
					t.Errorf("the client was told %q, %v", reply, err)
				}
				select {
				case <-s.proc.Ended():
					must(t, s.proc.Err())
				case <-time.After(time.Minute):
					t.Fatal("the server does not end")
				}
				slow.goOn()
				s.start()
				if !answered {
					must(t, s.inject("a@far.example", []string{"bob@example.com"}, "in between"))
				}
				s.waitFor("bob", "in between", 1)
				waitForOutput(t, s, "The queue is empty", "queue", "list")
				if left, err := filepath.Glob(filepath.Join(s.Dir, "data", "tmp", "*")); err != nil || len(left) > 0 {
					t.Errorf("left in the spool: %v, %v", left, err)
				}
			})
		}
	}
}

// TestReloadWhileContentIsAsked takes over a configuration with another list
// while a step waits: the session goes on by the one it began with, to its end;
// the next one has the new.
func TestReloadWhileContentIsAsked(t *testing.T) {
	t.Parallel()
	filter := startFilter(t, &testFilter{stalls: milterEndOfBody, edits: func([]string, string) []string {
		return []string{addField("X-By", "the filter")}
	}})
	s := newSite(t, withContent(patientMilter, milterStep), map[string]string{"filter": filter.Address}).start()
	d := s.dial("MX")
	d.bring("bob@example.com", "before")
	waitForWaiting(t, filter, 1)
	s.configure(withContent(`  rule "all" {
    when { recipients = ["example.com"] }
    then { headers = ["X-By: a rule"] }
  }
`, "    rules {}\n"))
	must(t, s.proc.Signal(syscall.SIGHUP))
	s.waitForLog("configuration taken over")
	must(t, s.inject("a@far.example", []string{"bob@example.com"}, "meanwhile"))
	if text := s.inboxText("bob", "meanwhile"); !strings.Contains(text, "X-By: a rule") || strings.Contains(text, "the filter") {
		t.Errorf("a new session does not have the new list:\n%s", text)
	}
	filter.goOn()
	d.expect("250 ")
	d.transaction("bob@example.com", "and again")
	d.expect("250 ")
	for _, subject := range []string{"before", "and again"} {
		if text := s.inboxText("bob", subject); !strings.Contains(text, "X-By: the filter") || strings.Contains(text, "a rule") {
			t.Errorf("%s: not by the list that the session began with:\n%s", subject, text)
		}
	}
	d.say("QUIT", "221 ")
}

// bring sends a message to its final dot, to which no reply is read.
func (d *dialog) bring(to, subject string) {
	d.t.Helper()
	d.say("EHLO client.example", "250 ")
	d.transaction(to, subject)
}

func (d *dialog) transaction(to, subject string) {
	d.t.Helper()
	d.say("MAIL FROM:<a@far.example>", "250 ", "RCPT TO:<"+to+">", "250 ", "DATA", "354 ")
	d.send("From: <a@far.example>\r\nSubject: " + subject + "\r\nX-One: 1\r\n\r\nbody\r\n.\r\n")
}

// crowd is how many clients come at once.
const crowd = 100

// crowdedSite has two listeners, one with the list, for the crowd, and one that asks nobody.
func crowdedSite(t *testing.T, blocks, list string, extra map[string]string) *site {
	t.Helper()
	text := variant(t, standard, "gateway {\n", "gateway {\n"+blocks, mxListener, `listener "mx" {
    bind                    = ["127.0.0.1:{{.Port.MX}}"]
    max_sessions_per_client = 0
    policy "content" {
`+list+`    }
  }
  listener "other" {
    mode = "mx"
    bind = ["127.0.0.1:{{.Port.IMAP}}"]
    policy "content" {
      header_checks { table = "inline:{never=DUNNO}" }
    }
  }`, `control { socket = "{{.Dir}}/control.sock" }`, `control {
  socket  = "{{.Dir}}/control.sock"
  metrics = "127.0.0.1:{{.Port.Metrics}}"
}`, `target "lmtp" "backend" { address = ["unix:{{.Socket}}"] }`, `target "lmtp" "backend" {
    address   = ["unix:{{.Socket}}"]
    idle_time = "1s"
  }`)
	return newSite(t, text, extra).start()
}

// come has a crowd bring a message each, at once, and returns how often each
// reply code was the last word.
func (s *site) come(subject string) (codes func() map[string]int) {
	replies := make(chan string, crowd)
	for range crowd {
		go func() { replies <- s.bringOne(subject) }()
	}
	return func() map[string]int {
		var all []string
		for range crowd {
			all = append(all, <-replies)
		}
		return tally(all)
	}
}

// bringOne is one of a crowd. It returns the code of the reply that refused its
// message, or took it, or else what went wrong.
func (s *site) bringOne(subject string) string {
	c, err := gosmtp.Dial(s.address("MX"))
	if err != nil {
		return err.Error()
	}
	defer func() { _ = c.Close() }()
	to := []string{"bob@example.com"}
	err = c.SendMail("a@far.example", to, letter("a@far.example", to, subject))
	if n := code(err); n >= 0 {
		return strconv.Itoa(n)
	}
	return err.Error()
}

// TestCrowdBeforeASilentService has a hundred clients come at once while who is
// asked about their mail takes connections and says nothing: all are answered as
// on_error says, and nothing is left of them afterwards.
func TestCrowdBeforeASilentService(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, blocks, list, code string }{
		{"milter, tempfail", impatientMilter("tempfail"), "      milter { use = milter.silent }\n", "451"},
		{"milter, accept", impatientMilter("accept"), "      milter { use = milter.silent }\n", "0"},
		{"rspamd, tempfail", "", impatientRspamd("defer"), "451"},
		{"rspamd, accept", "", impatientRspamd("dunno"), "0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			silent := startSilent(t)
			s := crowdedSite(t, row.blocks, row.list, map[string]string{"silent": silent.address})
			must(t, s.injectAt("IMAP", "before"))
			s.waitFor("bob", "before", 1)
			goroutines, files := s.figure("go_goroutines"), s.figure("process_open_fds")
			if codes := s.come("one of many")(); codes[row.code] != crowd {
				t.Errorf("answers: %v, want %d times %s", codes, crowd, row.code)
			}
			must(t, s.injectAt("IMAP", "after"))
			s.waitFor("bob", "after", 1)
			if row.code == "0" {
				s.waitFor("bob", "one of many", crowd)
			}
			// What is pooled and watched for the next message may stay a while.
			const few = 10
			testenv.Eventually(t, time.Minute, func() error {
				now, open := s.figures("go_goroutines", "process_open_fds"), silent.open()
				g, f := now[0], now[1]
				if g > goroutines+few || f > files+few || open > 0 {
					return fmt.Errorf("%v goroutines, %v before; %v files, %v before; %d connections to who is silent", g, goroutines, f, files, open)
				}
				return nil
			})
		})
	}
}

func impatientMilter(onError string) string {
	return `  milter "silent" {
    address         = "inet:{{.Extra.silent}}"
    connect_timeout = "1s"
    command_timeout = "1s"
    content_timeout = "1s"
    on_error        = "` + onError + `"
  }
`
}

func impatientRspamd(onError string) string {
	return "      rspamd {\n        url      = \"http://{{.Extra.silent}}\"\n        timeout  = \"1s\"\n        on_error = \"" + onError + "\"\n      }\n"
}

// TestOthersWhileACrowdWaits: while a hundred clients wait for an answer about
// their mail, that of another listener goes by; then all are answered, and what
// they brought is there.
func TestOthersWhileACrowdWaits(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"milter at the end", "rspamd"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slow, blocks, list, extra := stalls[name](t)
			s := crowdedSite(t, blocks, list, extra)
			codes := s.come("one of many")
			waitForWaiting(t, slow, crowd)
			must(t, s.injectAt("IMAP", "by another door"))
			s.waitFor("bob", "by another door", 1)
			slow.goOn()
			if all := codes(); all["0"] != crowd {
				t.Errorf("answers: %v", all)
			}
			s.waitFor("bob", "one of many", crowd)
		})
	}
}

// silentServer takes connections and says nothing.
type silentServer struct {
	address string

	mu    sync.Mutex
	conns map[net.Conn]bool
}

func startSilent(t testing.TB) *silentServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &silentServer{address: l.Addr().String(), conns: make(map[net.Conn]bool)}
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			readers.Go(func() {
				_, _ = io.Copy(io.Discard, c) // until the other side ends it
				_ = c.Close()
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.mu.Lock()
		for c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		readers.Wait()
	})
	return s
}

// open returns how many connections there are.
func (s *silentServer) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// injectAt sends a message to a listener as another server would.
func (s *site) injectAt(port, subject string) error {
	c, err := gosmtp.Dial(s.address(port))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	to := []string{"bob@example.com"}
	return c.SendMail("a@far.example", to, letter("a@far.example", to, subject))
}

// TestReloadKeepsWhatIsKnownOfAFilter: a filter that is down stays so over a
// reload that does not concern it, and is asked anew by one that does.
func TestReloadKeepsWhatIsKnownOfAFilter(t *testing.T) {
	t.Parallel()
	block := func(timeout string) string {
		return "  milter \"gone\" {\n    address         = \"unix:{{.Dir}}/gone\"\n    on_error        = \"accept\"\n    command_timeout = \"" + timeout + "\"\n  }\n"
	}
	text := func(timeout, more string) string {
		return variant(t, withContent(block(timeout), "    milter { use = milter.gone }\n"), `control { socket = "{{.Dir}}/control.sock" }`, `control {
  socket  = "{{.Dir}}/control.sock"
  metrics = "127.0.0.1:{{.Port.Metrics}}"
}`) + more
	}
	s := newSite(t, text("5s", ""), nil).start()
	for range 3 {
		must(t, s.inject("a@far.example", []string{"bob@example.com"}, "unfiltered"))
	}
	const up = `gateway_milter_up{milter="gone"}`
	for _, row := range []struct {
		timeout, more, status string
		up                    float64
	}{
		{"5s", "", "milter gone +DOWN since", 0},
		{"5s", "shutdown_grace = \"1s\"\n", "milter gone +DOWN since", 0},
		{"6s", "", "milter gone +answers, or was not asked yet", 1},
	} {
		s.configure(text(row.timeout, row.more))
		s.run("reload")
		if got := s.figure(up); got != row.up {
			t.Errorf("%+v: %s %v", row, up, got)
		}
		if out := s.run("status"); !regexp.MustCompile(row.status).MatchString(out) {
			t.Errorf("%+v: status\n%s", row, out)
		}
	}
}
