package delivery_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

// lines is the far end of a conversation, line by line.
type lines struct {
	conn net.Conn
	in   *bufio.Reader
}

func newLines(conn net.Conn) *lines { return &lines{conn, bufio.NewReader(conn)} }

func (l *lines) read() string {
	line, _ := l.in.ReadString('\n')
	return strings.TrimRight(line, "\r\n")
}

func (l *lines) say(text string) { _, _ = io.WriteString(l.conn, text+"\r\n") }

// pipes has every connection served by dialogue.
func pipes(dialogue func(net.Conn)) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go dialogue(far)
		return near, nil
	}
}

func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(testenv.TempDir(t), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func messageFrom(from string, to ...string) mail.Delivery {
	d := message(to...)
	d.Envelope.ReversePath = mail.Address{}
	if from != "" {
		d.Envelope.ReversePath = mail.MustAddress(from)
	}
	return d
}

// TestLoginBySender: each sender's mail goes over a connection of its login,
// and hosts of the recipient's domain get no password but their own.
func TestLoginBySender(t *testing.T) {
	t.Parallel()
	p, _, port := world(t, nil, nil)
	logins := ruleFile(t, `boss@here.example  boss:secret
@here.example      here:secret
mx1.example.com    peer:secret
[127.0.0.1]:`+port+`    hop:secret
`)
	target := delivery.Target{
		Addresses: []string{"[127.0.0.1]:" + port}, TLS: tlspolicy.None, LoginsFile: logins,
		Login: "own", PasswordFile: secretFile(t, "secret\n"),
	}
	tr := newRelay(t, target, names{})
	for _, from := range []string{"boss@here.example", "Boss+x@here.example", "a@here.example", "boss@here.example", "a@there.example", ""} {
		if got := tr.Deliver(t.Context(), messageFrom(from, "x@example.net")); sketch(got) != "delivered by peer 2.0.0" {
			t.Errorf("%s: %+v", from, got)
		}
	}
	byMX := newRelay(t, delivery.Target{TLS: tlspolicy.None, LoginsFile: logins}, names{
		mx:   map[string]string{"example.com": "10 mx1.example.com.", "example.org": "10 mx2.example.com."},
		host: map[string]string{"mx1.example.com": "127.0.0.1", "mx2.example.com": "127.0.0.1"},
	})
	for _, domain := range []string{"example.com", "example.org"} {
		d := messageFrom("boss@here.example", "x@"+domain)
		if got := through(byMX, port, d); sketch(got) != "delivered by peer 2.0.0" {
			t.Errorf("%s: %+v", domain, got)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if got, want := fmt.Sprint(p.logins), "[boss:secret here:secret hop:secret peer:secret]"; got != want {
		t.Errorf("logins %s, want %s", got, want)
	}
	if p.sessions != 5 {
		t.Errorf("%d connections", p.sessions)
	}
}

// TestRefusedLoginRests: a wrong password is offered once and not again before
// the pause is over, by however many deliveries at once, and the server's words
// are kept.
func TestRefusedLoginRests(t *testing.T) {
	t.Parallel()
	p, _, port := world(t, nil, nil)
	target := delivery.Target{
		Addresses: []string{"[127.0.0.1]:" + port}, TLS: tlspolicy.None, Login: "own", PasswordFile: secretFile(t, "wrong"),
	}
	tr := newRelay(t, target, names{})
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			got := tr.Deliver(t.Context(), message("x@example.net"))
			if sketch(got) != "deferred by peer 5.7.8" || got[0].Reply.Text != "wrong" {
				t.Errorf("%+v", got)
			}
		})
	}
	all.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := fmt.Sprint(p.logins); got != "[own:wrong]" {
		t.Errorf("logins %s", got)
	}
}

// TestLoginPauses: the pause grows to an hour and ends with a login that
// succeeds.
func TestLoginPauses(t *testing.T) {
	t.Parallel()
	secret := secretFile(t, "pw")
	synctest.Test(t, func(t *testing.T) {
		var tries int
		right := false
		dialogue := func(conn net.Conn) {
			defer conn.Close()
			lines := newLines(conn)
			lines.say("220 x ESMTP")
			lines.read()
			lines.say("250-x\r\n250 AUTH PLAIN")
			if !strings.HasPrefix(lines.read(), "AUTH") {
				return
			}
			if tries++; !right {
				lines.say("535 5.7.8 no")
				return
			}
			lines.say("235 ok")
		}
		pool, err := delivery.NewPool(delivery.Target{
			Name: "t", Protocol: delivery.SMTP, Addresses: []string{"[192.0.2.1]"}, TLS: tlspolicy.None,
			Login: "own", PasswordFile: secret, PlaintextAuth: true, Dial: pipes(dialogue),
		}, "mx.example.com", hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		attempt := func() {
			pool.Attempt(t.Context(), message("x@example.net"), []delivery.Endpoint{{Network: "tcp", Address: "192.0.2.1:25"}})
		}
		var times []time.Duration
		start := time.Now()
		for before := tries; time.Since(start) < 4*time.Hour; before = tries {
			if attempt(); tries != before {
				times = append(times, time.Since(start))
			}
			time.Sleep(time.Minute)
		}
		if want := []time.Duration{0, 5 * time.Minute, 15 * time.Minute, 35 * time.Minute, 75 * time.Minute, 135 * time.Minute, 195 * time.Minute}; !slices.Equal(times, want) {
			t.Errorf("tried after %v, want %v", times, want)
		}
		right = true
		time.Sleep(time.Hour)
		for range 3 {
			attempt()
		}
		if n := len(times) + 3; tries != n {
			t.Errorf("%d logins, want %d", tries, n)
		}
	})
}

func checkLogins(name, text string) error {
	_, err := (&table.Opener{}).Parse(table.KindText, name, strings.NewReader(text), delivery.LoginUse)
	return err
}

func TestLoginsRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"a@b.example", "a@b.example user", "a@b.example :pw", "a@b.example user:", "[b user:pw", "@ user:pw", "a.b u:p\nA.B u:p"} {
		err := checkLogins("file", text)
		if err == nil || !strings.HasPrefix(err.Error(), "file:") || strings.Contains(err.Error(), "pw") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzCheckLogins: no mistake in a file of passwords shows one.
func FuzzCheckLogins(f *testing.F) {
	f.Add("@a.example user:", "b.example u:pw\nc")
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "geheimes-passwort"
		text := before + "\nx.example u:" + secret + "\n" + after
		if err := checkLogins("f", text); err != nil && strings.Contains(err.Error(), secret) {
			t.Fatal(err)
		}
	})
}
