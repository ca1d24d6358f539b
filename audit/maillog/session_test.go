package maillog

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
)

// TestSessions: a failed login names its client, and the end of a session tells
// how many logins there were, and that it was at that.
func TestSessions(t *testing.T) {
	t.Parallel()
	of := func(id mail.SessionID, e mail.Event) mail.Event { e.Session = id; return e }
	login := func(result string) mail.Event {
		e := event(mail.EventAuth, result)
		e.Mechanism, e.Login, e.Client, e.Helo, e.Protocol = "PLAIN", "alice", "", "", ""
		return e
	}
	lost := with(event(mail.EventDisconnect, ""), func(e *mail.Event) { e.Reason, e.Phase = "ConnectionLost", "helo" })
	got := written(t,
		of("1", event(mail.EventConnect, "")), of("2", event(mail.EventConnect, "")),
		of("1", login("refused")), of("1", login("unknown")), of("2", login("ok")),
		of("1", lost), of("2", event(mail.EventDisconnect, "")),
		of("1", lost), // whose beginning nobody saw
	)
	for _, want := range []string{
		": warning: client.example[198.51.100.7]: SASL PLAIN authentication failed: authentication failure, sasl_username=alice\n",
		": lost connection after AUTH from client.example[198.51.100.7]\n",
		": disconnect from client.example[198.51.100.7] auth=0/2\n",
		": disconnect from client.example[198.51.100.7] auth=1\n",
		": lost connection after EHLO from client.example[198.51.100.7]\n",
		": disconnect from client.example[198.51.100.7]\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// TestSessionsAreBounded: those that never end do not pile up, and those that do
// leave nothing.
func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	l := New(Config{Hostname: "mx", Services: services()}, new(bytes.Buffer), hclog.NewNullLogger())
	for i := range maxSessions + 10 {
		e := event(mail.EventConnect, "")
		e.Session = mail.SessionID(fmt.Sprint(i))
		l.followLocked(&e)
		e.Kind, e.Session = mail.EventAuth, "stray"
		l.followLocked(&e)
	}
	if len(l.sessions) != maxSessions {
		t.Errorf("%d sessions", len(l.sessions))
	}
	for i := range maxSessions {
		e := event(mail.EventDisconnect, "")
		e.Session = mail.SessionID(fmt.Sprint(i))
		l.followLocked(&e)
	}
	if len(l.sessions) != 0 {
		t.Errorf("%d sessions are left", len(l.sessions))
	}
}
