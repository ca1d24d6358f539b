package smtp

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// watcher is a handler that tells what it knows of its client.
type watcher struct {
	*fakeHandler
	refuse string
}

func (w watcher) NewSession(ctx context.Context, client *mail.Client) (Session, error) {
	login := "-"
	if client.Identity != nil {
		login = client.Identity.Authentication
	}
	w.note("client %s[%s] reverse=%s (%s) to %s helo=%s extended=%t login=%s via=%t",
		client.Hostname, client.Remote, client.ReverseName, client.Naming, client.Local, client.Helo, client.Extended, login, client.Via.IsValid())
	if w.refuse != "" && client.Hostname == w.refuse {
		return nil, reasonIn("ClientRejected")
	}
	return w.fakeHandler.NewSession(ctx, client)
}

// TestXCLIENT: who may says who the client is, and a session of that client
// begins with all that belongs to one.
func TestXCLIENT(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, attributes, sees string
	}{
		{"all", "NAME=spike.example.net ADDR=192.0.2.7 PORT=4321 PROTO=ESMTP HELO=spike LOGIN=alice DESTADDR=198.51.100.1 DESTPORT=25 REVERSE_NAME=rev.example.net",
			"client spike.example.net[192.0.2.7:4321] reverse=rev.example.net (verified) to 198.51.100.1:25 helo=spike extended=true login=alice via=true"},
		{"IPv6", "ADDR=IPV6:2001:db8::1 PORT=1 DESTADDR=ipv6:2001:db8::2 DESTPORT=2",
			"client [[2001:db8::1]:1] reverse= (not asked) to [2001:db8::2]:2 helo= extended=false login=- via=true"},
		{"xtext", "name=a+2Eexample addr=192.0.2.7 port=1 DESTADDR=198.51.100.1 DESTPORT=25 LOGIN=a+20b+2Bc",
			"client a.example[192.0.2.7:1] reverse=a.example (verified) to 198.51.100.1:25 helo= extended=false login=a b+c via=true"},
		{"unavailable", "NAME=[UNAVAILABLE] ADDR=[unavailable] PORT=[UNAVAILABLE] PROTO=SMTP HELO=[UNAVAILABLE] LOGIN=[UNAVAILABLE] DESTADDR=198.51.100.1 DESTPORT=25",
			"client [0.0.0.0:0] reverse= (none) to 198.51.100.1:25 helo= extended=false login=- via=true"},
		{"not now", "NAME=[TEMPUNAVAIL] ADDR=192.0.2.7 PORT=1 DESTADDR=198.51.100.1 DESTPORT=25",
			"client [192.0.2.7:1] reverse= (temporary failure) to 198.51.100.1:25 helo= extended=false login=- via=true"},
		{"forged", "NAME=[UNAVAILABLE] REVERSE_NAME=liar.example ADDR=192.0.2.7 PORT=1 DESTADDR=198.51.100.1 DESTPORT=25",
			"client [192.0.2.7:1] reverse=liar.example (forged) to 198.51.100.1:25 helo= extended=false login=- via=true"},
		{"syntax in names", "NAME=a<b>;c HELO=x(y) ADDR=192.0.2.7 PORT=1 DESTADDR=198.51.100.1 DESTPORT=25",
			"client a?b??c[192.0.2.7:1] reverse=a?b??c (verified) to 198.51.100.1:25 helo=x?y? extended=false login=- via=true"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := watcher{fakeHandler: &fakeHandler{}}
			_, address, stop := startLoopback(t, ServerConfig{XClientHosts: loopback}, h)
			c := dialTalker(t, address)
			c.hear("220")
			c.say("EHLO proxy.test")
			c.hear("250")
			c.say("XCLIENT " + row.attributes)
			c.hear("220 mx.test")
			c.say("HELO again.test")
			c.hear("250")
			c.say("QUIT")
			c.hear("221")
			stop()
			if !strings.Contains(h.seen(), "close <nil>\n"+row.sees+"\n") {
				t.Errorf("handler saw\n%swant\n%s", h.seen(), row.sees)
			}
		})
	}
}

// TestXCLIENTMistakes: the session goes on as that of the same client.
func TestXCLIENTMistakes(t *testing.T) {
	t.Parallel()
	h := watcher{fakeHandler: &fakeHandler{}, refuse: "bad.example"}
	_, address, stop := startLoopback(t, ServerConfig{XClientHosts: loopback, HardErrors: -1, SoftErrors: -1}, h)
	c := dialTalker(t, address)
	c.hear("220")
	for _, says := range []string{
		"XCLIENT", "XCLIENT ADDR", "XCLIENT ADDR=", "XCLIENT FOO=bar", "XCLIENT ADDR=192.0.2", "XCLIENT ADDR=IPV6:192.0.2.1.5", "XCLIENT ADDR=fe80::1%25eth0",
		"XCLIENT PORT=65536", "XCLIENT PORT=x", "XCLIENT PROTO=HTTP", "XCLIENT NAME=a+0", "XCLIENT NAME=a+0Ab", "XCLIENT IDENT=x",
		"XCLIENT NAME=" + strings.Repeat("x", 256), "XCLIENT ADDR=192.0.2.7 DESTADDR=x", "XCLIENT" + strings.Repeat(" PORT=1", 40),
	} {
		c.say(says)
		c.hear("501 5.5.4")
	}
	c.say("EHLO proxy.test")
	c.hear("250")
	c.say("MAIL FROM:<a@client.test>")
	c.hear("250")
	c.say("XCLIENT ADDR=192.0.2.7")
	c.hear("503 5.5.1")
	c.say("RSET")
	c.hear("250")
	c.say("XFORWARD ADDR=192.0.2.7")
	c.hear("550 5.7.0 Error: insufficient authorization")
	if n := strings.Count(h.seen(), "client "); n != 1 {
		t.Errorf("%d sessions\n%s", n, h.seen())
	}
	// A client that policy refuses at once hears so in the place of the 220.
	c.say("XCLIENT NAME=bad.example ADDR=192.0.2.8")
	c.hear("554")
	c.hearEnd()
	stop()
}

// TestXCLIENTLogin: what XCLIENT said of a login does not outlast the next one.
func TestXCLIENTLogin(t *testing.T) {
	t.Parallel()
	h := watcher{fakeHandler: &fakeHandler{}}
	server, address, _ := startLoopback(t, ServerConfig{XClientHosts: loopback}, h)
	c := dialTalker(t, address)
	c.hear("220")
	c.say("XCLIENT LOGIN=alice")
	c.hear("220")
	if ids := server.Identities(); len(ids) != 1 || ids[0].Authentication != "alice" {
		t.Errorf("logged in: %v", ids)
	}
	c.say("XCLIENT ADDR=192.0.2.7")
	c.hear("220")
	if ids := server.Identities(); len(ids) != 0 {
		t.Errorf("logged in: %v", ids)
	}
}

// TestBehalfIsOffered: to those who may, by the words of Postfix, and to nobody
// else; others are refused.
func TestBehalfIsOffered(t *testing.T) {
	t.Parallel()
	elsewhere := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	ask := func(cfg ServerConfig) (offers string, c *talker) {
		_, address, _ := startLoopback(t, cfg, &fakeHandler{})
		c = dialTalker(t, address)
		c.hear("220")
		c.say("EHLO client.test")
		for {
			line, err := c.r.ReadString('\n')
			check(t, err)
			if strings.HasPrefix(line[4:], "X") {
				offers += line[4:]
			}
			if line[3] == ' ' {
				return offers, c
			}
		}
	}
	got, _ := ask(ServerConfig{XClientHosts: loopback, XForwardHosts: loopback})
	if want := "XCLIENT NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT\r\nXFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	got, c := ask(ServerConfig{XClientHosts: elsewhere, XForwardHosts: elsewhere})
	if got != "" {
		t.Errorf("offered to a stranger: %q", got)
	}
	c.say("XCLIENT ADDR=10.0.0.1")
	c.hear("550 5.7.0")
	c.say("XFORWARD ADDR=10.0.0.1")
	c.hear("550 5.7.0")
	if got, c = ask(ServerConfig{XClientHosts: loopback, DiscardEHLO: []string{"xclient"}}); got != "" {
		t.Errorf("discarded, and offered: %q", got)
	}
	c.say("XCLIENT ADDR=10.0.0.1")
	c.hear("502")
}

// forwardee notes what the client is said to have the message from.
type forwardee struct{ *fakeHandler }

type forwardeeSession struct {
	*fakeSession
	client *mail.Client
}

func (f forwardee) NewSession(ctx context.Context, client *mail.Client) (Session, error) {
	s, err := f.fakeHandler.NewSession(ctx, client)
	return forwardeeSession{s.(*fakeSession), client}, err
}

func (s forwardeeSession) Mail(ctx context.Context, from MailCommand) (Transaction, error) {
	if s.client.Forwarded == nil {
		s.h.note("forwarded nothing")
	} else {
		s.h.note("forwarded %+v", *s.client.Forwarded)
	}
	return s.fakeSession.Mail(ctx, from)
}

// TestXFORWARD: attributes of several commands come together, and end with the
// message.
func TestXFORWARD(t *testing.T) {
	t.Parallel()
	h := forwardee{&fakeHandler{}}
	_, address, _ := startLoopback(t, ServerConfig{XForwardHosts: loopback}, h)
	c := dialTalker(t, address)
	c.hear("220")
	c.say("EHLO filter.test")
	c.hear("250")
	c.say("XFORWARD NAME=spike.example.net ADDR=192.0.2.7 PORT=4321", "XFORWARD PROTO=ESMTP HELO=spike IDENT=4ABC12 SOURCE=remote")
	c.hear("250 2.0.0", "250 2.0.0")
	c.say(openMessage...)
	c.hear("250", "250", "354")
	c.say("text", ".")
	c.hear("250")
	c.say("MAIL FROM:<a@client.test>")
	c.hear("250")
	c.say("XFORWARD NAME=x")
	c.hear("503")
	c.say("RSET")
	c.hear("250")
	for _, says := range []string{"XFORWARD", "XFORWARD SOURCE=ELSEWHERE", "XFORWARD LOGIN=x", "XFORWARD ADDR=x"} {
		c.say(says)
		c.hear("501 5.5.4")
	}
	c.say("XFORWARD NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::1")
	c.hear("250")
	c.say("MAIL FROM:<a@client.test>")
	c.hear("250")
	want := "forwarded {Name:spike.example.net Address:192.0.2.7 Port:4321 Protocol:ESMTP Helo:spike QueueID:4ABC12 Source:REMOTE}\n" +
		"forwarded nothing\nforwarded {Name: Address:2001:db8::1 Port: Protocol: Helo: QueueID: Source:}\n"
	got := ""
	for line := range strings.Lines(h.seen()) {
		if strings.HasPrefix(line, "forwarded") {
			got += line
		}
	}
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// FuzzBehalf: whatever is claimed, what comes out can stand in logs and header
// fields, and is bounded.
func FuzzBehalf(f *testing.F) {
	f.Add("NAME=spike.example.net ADDR=192.0.2.7 PORT=4321 PROTO=ESMTP HELO=spike LOGIN=alice")
	f.Add("NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::1 REVERSE_NAME=[TEMPUNAVAIL] DESTADDR=::1 DESTPORT=0")
	f.Add("SOURCE=LOCAL IDENT=4ABC12+2B HELO=+3C+3E")
	f.Add("NAME=+0D+0A ADDR=fe80::1%eth0 LOGIN=+00 PORT=-1")
	f.Fuzz(func(t *testing.T, arg string) {
		s := &serverSession{client: mail.Client{Remote: netip.MustParseAddrPort("127.0.0.1:1")}, peer: netip.MustParseAddrPort("127.0.0.1:1")}
		if attributes, err := parseAttributes(arg, xclientAttributes); err == nil {
			if c, err := s.claim(attributes); err == nil {
				login := ""
				if c.Identity != nil {
					login = c.Identity.Authentication
				}
				harmless(t, c.Hostname, c.ReverseName, c.Helo, login)
				if !c.Remote.IsValid() || c.Remote.Addr().Zone() != "" || !c.Via.IsValid() {
					t.Fatalf("client %+v", c)
				}
			}
		}
		if attributes, err := parseAttributes(arg, xforwardAttributes); err == nil {
			var told mail.Forwarded
			for _, a := range attributes {
				if takeForwarded(&told, a) != nil {
					return
				}
			}
			harmless(t, told.Name, told.Address, told.Port, told.Protocol, told.Helo, told.QueueID, told.Source)
		}
	})
}

func harmless(t *testing.T, values ...string) {
	t.Helper()
	for _, v := range values {
		if len(v) > maxBehalfValue || bytes.ContainsFunc([]byte(v), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Fatalf("value %q", fmt.Sprint(v))
		}
	}
}
