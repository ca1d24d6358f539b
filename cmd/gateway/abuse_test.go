package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// besieged is a site with limits that a few connections reach. Its times are
// for slow attackers, and long enough for honest clients of a busy machine.
var besieged = strings.NewReplacer(
	`control { socket = "{{.Dir}}/control.sock" }`, `control {
  socket  = "{{.Dir}}/control.sock"
  metrics = "127.0.0.1:{{.Port.Metrics}}"
}`,
	"gateway {\n", `gateway {
  limits {
    rate_time_unit                    = "1h"
    client_new_tls_session_rate_limit = 20
    client_auth_rate_limit            = 20
    client_recipient_rate_limit       = 60
    error_sleep_time                  = "10ms"
  }
`, mxListener, `listener "mx" {
    bind                    = ["127.0.0.1:{{.Port.MX}}"]
    max_sessions            = 40
    max_sessions_per_client = 12
    command_timeout         = "10s"
    data_timeout            = "10s"
  }`).Replace(standard)

// attacker is a connection that does as it likes. Those of a site under attack
// come from 127.0.0.1; honest clients have another address.
type attacker struct {
	net.Conn
	in *bufio.Reader
}

func (s *site) attack(listener string) *attacker {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.address(listener))
	must(s.t, err)
	must(s.t, conn.SetDeadline(time.Now().Add(time.Minute)))
	s.t.Cleanup(func() { _ = conn.Close() })
	return &attacker{conn, bufio.NewReader(conn)}
}

// say sends octets; that nobody reads them any more is no failure.
func (a *attacker) say(octets string) { _, _ = io.WriteString(a.Conn, octets) }

// line returns the last line of the next reply, "" at the end.
func (a *attacker) line() string {
	for {
		line, err := a.in.ReadString('\n')
		if err != nil || len(line) < 4 || line[3] != '-' {
			return strings.TrimSuffix(line, "\r\n")
		}
	}
}

// rest returns all that still comes until the server closes.
func (a *attacker) rest(t *testing.T) string {
	t.Helper()
	all, err := io.ReadAll(a.in)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Errorf("it was never closed, after %q", all)
	}
	return string(all)
}

// open opens connections, of which the greetings come back.
func (s *site) open(n int) (all []*attacker, greetings []string) {
	for range n {
		a := s.attack("MX")
		all, greetings = append(all, a), append(greetings, a.line())
	}
	return all, greetings
}

func closeAll(all []*attacker) {
	for _, a := range all {
		_ = a.Close()
	}
}

// honest connects from an address of its own.
func (s *site) honest(listener string) *gosmtp.Client {
	s.t.Helper()
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: 30 * time.Second}
	conn, err := from.Dial("tcp", s.address(listener))
	must(s.t, err)
	if listener == "MX" {
		return gosmtp.NewClient(conn)
	}
	c, err := gosmtp.NewClientStartTLS(conn, s.tls())
	must(s.t, err)
	return c
}

// serves has an honest server's and an honest person's mail taken, now.
func (s *site) serves(during string) {
	s.t.Helper()
	to := []string{"bob@example.com"}
	c := s.honest("MX")
	if err := c.SendMail("a@far.example", to, letter("a@far.example", to, during)); err != nil {
		s.t.Errorf("%s: another server's mail: %v", during, err)
	}
	must(s.t, c.Close())
	c = s.honest("Submission")
	must(s.t, c.Auth(sasl.NewPlainClient("", "alice", ldif.Password("alice"))))
	if err := c.SendMail("alice@example.com", to, letter("alice@example.com", to, during)); err != nil {
		s.t.Errorf("%s: a person's mail: %v", during, err)
	}
	must(s.t, c.Close())
}

// figure reads one metric.
func (s *site) figure(name string) float64 {
	s.t.Helper()
	return s.figures(name)[0]
}

// figures reads several metrics of one moment.
func (s *site) figures(names ...string) (values []float64) {
	s.t.Helper()
	page, err := s.metrics()
	must(s.t, err)
	for _, name := range names {
		values = append(values, s.figureOf(page, name))
	}
	return values
}

func (s *site) figureOf(page, name string) float64 {
	s.t.Helper()
	found := regexp.MustCompile("(?m)^" + regexp.QuoteMeta(name) + " (.*)$").FindStringSubmatch(page)
	if found == nil {
		s.t.Fatalf("no metric %s", name)
	}
	value, err := strconv.ParseFloat(found[1], 64)
	must(s.t, err)
	return value
}

// tally counts texts.
func tally(texts []string) map[string]int {
	n := make(map[string]int)
	for _, text := range texts {
		n[text]++
	}
	return n
}

// TestAbuse has one client network do to a running gateway what bots do. Each
// attack is answered as documented, others are served meanwhile, and nothing is
// left of it afterwards.
func TestAbuse(t *testing.T) {
	t.Parallel()
	s := newSite(t, besieged, nil).start()
	s.serves("before")
	s.waitFor("bob", "before", 2)
	goroutines, heap := s.figure("go_goroutines"), s.figure("go_memstats_heap_inuse_bytes")
	for _, attack := range []struct {
		name string
		run  func(*testing.T, *site)
	}{
		{"crowd", crowds}, {"other protocols", otherProtocols}, {"recipients", floodsRecipients}, {"slow commands", slowCommands}, {"slow data", slowData},
		{"handshakes", floodsHandshakes}, {"passwords", stormsPasswords},
	} {
		t.Run(attack.name, func(t *testing.T) { attack.run(t, s) })
	}
	s.serves("after")
	s.waitFor("bob", "after", 2)
	testenv.Eventually(t, time.Minute, func() error {
		now := s.figures(`gateway_listener_sessions_open{listener="mx"}`, `gateway_listener_sessions_open{listener="submission"}`, "go_goroutines", "go_memstats_heap_inuse_bytes")
		open, g, h := now[0]+now[1], now[2], now[3]
		if open != 0 || g > goroutines+10 || h > heap+16<<20 {
			return fmt.Errorf("%v sessions; %v goroutines, %v before; %v octets of heap, %v before", open, g, goroutines, h, heap)
		}
		return nil
	})
}

// crowds opens more connections than one client may have, again and again.
func crowds(t *testing.T, s *site) {
	s.quiet()
	for range 5 {
		all, greetings := s.open(20)
		told := 0
		for greeting, n := range tally(greetings) {
			if greeting == "421 4.7.0 Too many connections" {
				told += n
			} else if !strings.HasPrefix(greeting, "220 ") {
				t.Errorf("greeted with %q", greeting)
			}
		}
		// With places of the round before, which are free soon, there are more.
		if told < 8 {
			t.Errorf("%d of 20 connections were turned away, with 12 places", told)
		}
		s.serves("crowd")
		closeAll(all)
	}
}

// otherProtocols speaks what no mail server does.
func otherProtocols(t *testing.T, s *site) {
	s.quiet()
	for octets, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: mail.example.com\r\nX: MAIL FROM:<a@b.example>\r\n\r\n":      "521 5.7.0",
		"POST / HTTP/1.1\r\nContent-Length: 40\r\n\r\nEHLO x\r\nMAIL FROM:<a@b.example>\r\n":  "521 5.7.0",
		"CONNECT 192.0.2.1:25 HTTP/1.0\r\n\r\n":                                               "521 5.7.0",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 200) + "\r\n": "",
		"EHLO x\r\nMAIL FROM:<a@b.example>\r\n":                                               "554 5.5.0",
		strings.Repeat("A", 100<<10) + "\r\nMAIL FROM:<a@b.example>":                          "",
	} {
		a := s.attack("MX")
		a.line()
		a.say(octets)
		said := a.rest(t)
		lines := strings.Split(strings.TrimSpace(said), "\r\n")
		if last := lines[len(lines)-1]; !strings.HasPrefix(last, want) || strings.Contains(said, "2.1.0") {
			t.Errorf("%.30q is answered %q, want %q at its end", octets, said, want)
		}
	}
	s.serves("other protocols")
}

// floodsRecipients guesses addresses, within sessions and over them.
func floodsRecipients(t *testing.T, s *site) {
	s.quiet()
	var all []string
	for range 5 {
		a := s.attack("MX")
		a.line()
		a.say("EHLO bot.example\r\n")
		a.line()
		a.say("MAIL FROM:<a@bot.example>\r\n" + strings.Repeat("RCPT TO:<nobody@example.com>\r\n", 200))
		for _, line := range strings.Split(strings.TrimSpace(a.rest(t)), "\r\n") {
			all = append(all, line[:min(9, len(line))])
		}
	}
	n := tally(all)
	if n["550 5.1.1"] > 60 || n["450 4.7.1"] == 0 || n["421 4.7.0"] == 0 || n["550 5.1.1"]+n["450 4.7.1"] > 5*21 {
		t.Errorf("answered %v", n)
	}
	s.serves("recipients")
}

// drip sends octets slowly until the connection ends.
func (a *attacker) drip(octet string) (stop func()) {
	var dripping sync.WaitGroup
	done := make(chan struct{})
	dripping.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if _, err := io.WriteString(a.Conn, octet); err != nil {
					return
				}
			}
		}
	})
	return func() { close(done); dripping.Wait() }
}

// slowCommands begins lines that never end.
func slowCommands(t *testing.T, s *site) {
	s.quiet()
	all, _ := s.open(12)
	var stops []func()
	for _, a := range all {
		stops = append(stops, a.drip("x"))
	}
	s.serves("slow commands")
	for i, a := range all {
		if said := a.rest(t); said != "" && !strings.HasPrefix(said, "421 4.4.2") {
			t.Errorf("ended with %q", said)
		}
		stops[i]()
		_ = a.Close()
	}
}

// quiet waits until nobody has a place any more.
func (s *site) quiet() {
	s.t.Helper()
	testenv.Eventually(s.t, time.Minute, func() error {
		if n := s.figure(`gateway_listener_sessions_open{listener="mx"}`); n > 0 {
			return fmt.Errorf("%v sessions are open", n)
		}
		return nil
	})
}

// slowData sends messages that never end.
func slowData(t *testing.T, s *site) {
	var all []*attacker
	var stops []func()
	s.quiet()
	for range 6 {
		a := s.attack("MX")
		a.line()
		// A null reverse-path and no recipient: the rate of recipients is used up.
		for _, row := range [][2]string{{"EHLO bot.example", "250"}, {"MAIL FROM:<> BODY=8BITMIME", "250"}} {
			a.say(row[0] + "\r\n")
			if got := a.line(); !strings.HasPrefix(got, row[1]) {
				t.Fatalf("%s: %q", row[0], got)
			}
		}
		a.say("BDAT 100000\r\n")
		all, stops = append(all, a), append(stops, a.drip("x"))
	}
	s.serves("slow data")
	for i, a := range all {
		if said := a.rest(t); strings.Contains(said, "\r\n250") || strings.HasPrefix(said, "250") {
			t.Errorf("ended with %q", said)
		}
		stops[i]()
	}
}

// floodsHandshakes leaves handshakes open, and begins more.
func floodsHandshakes(t *testing.T, s *site) {
	s.quiet()
	var all []*attacker
	var said []string
	for i := range 30 {
		a := s.attack("MX")
		if got := a.line(); !strings.HasPrefix(got, "220") {
			said = append(said, got)
			continue
		}
		a.say("EHLO bot.example\r\n")
		a.line()
		a.say("STARTTLS\r\n")
		said = append(said, a.line())
		if !strings.HasPrefix(said[i], "220") {
			_ = a.Close()
		} else if i%4 != 0 { // noise; the others send half of a record
			a.say("\x16\x03\x01\xff\xff" + strings.Repeat("\xee", 1000))
			_, _ = io.Copy(io.Discard, a.in)
			_ = a.Close()
		} else {
			a.say("\x16\x03\x01\x02\x00\x01\x00")
			all = append(all, a)
		}
	}
	ready, late := 0, 0
	for _, line := range said {
		switch {
		case strings.HasPrefix(line, "220 2.0.0"):
			ready++
		case strings.HasPrefix(line, "454 4.7.0 Error: too many new TLS sessions from 127.0.0.1; try again in "):
			late++
		default:
			t.Errorf("said %q", line)
		}
	}
	if ready != 20 || late != 10 {
		t.Errorf("%d handshakes and %d refused, of 30 with 20 allowed", ready, late)
	}
	s.serves("handshakes")
	closeAll(all)
}

// stormsPasswords guesses passwords, within sessions and over them.
func stormsPasswords(t *testing.T, s *site) {
	var said []string
	for range 10 {
		c, err := gosmtp.DialStartTLS(s.address("Submission"), s.trust)
		if err != nil {
			said = append(said, answer(err))
			continue
		}
		for range 5 {
			said = append(said, answer(c.Auth(sasl.NewPlainClient("", "carol", "guess"))))
		}
		_ = c.Close()
	}
	n := tally(said)
	if n["535 5.7.8"] == 0 || n["535 5.7.8"] > 20 || n["421 4.7.0"] == 0 || n["450 4.7.1"] == 0 || n[""] != 0 {
		t.Errorf("answered %v", n)
	}
	s.serves("passwords")
}

// TestPregreet: who talks before the greeting of a real socket is dropped, who
// waits is served, and is known after a restart.
func TestPregreet(t *testing.T) {
	t.Parallel()
	text := strings.Replace(besieged, `listener "mx" {`, `listener "mx" {
    pregreet {
      action = "drop"
      wait   = "1s"
    }`, 1)
	s := newSite(t, text, nil).start()
	s.proc.Pause() // what is sent now is there when the server sees the connection
	a := s.attack("MX")
	a.say("EHLO bot.example\r\nMAIL FROM:<a@bot.example>\r\n")
	s.proc.Resume()
	if said := a.rest(t); !strings.HasPrefix(said, "220-mail.example.com ") || !strings.Contains(said, "\r\n521 5.5.1 ") || strings.Contains(said, "250") {
		t.Errorf("who does not wait is told %q", said)
	}
	if n := s.figure(`gateway_listener_pregreet_total{listener="mx"}`); n != 1 {
		t.Errorf("%v are counted", n)
	}
	must(t, s.inject("a@far.example", []string{"bob@example.com"}, "polite"))
	s.waitFor("bob", "polite", 1)
	waitForOutput(t, s, `pregreet +1 entries`, "status")
	s.proc.Stop()
	s.start()
	waitForOutput(t, s, `pregreet +1 entries`, "status")
	// It is not held back any more, and there is nothing to talk before.
	if greeting := s.attack("MX").line(); !strings.HasPrefix(greeting, "220 mail.example.com ") {
		t.Errorf("greeted with %q", greeting)
	}
	must(t, s.inject("a@far.example", []string{"bob@example.com"}, "again"))
}
