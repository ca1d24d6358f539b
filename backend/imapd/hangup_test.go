package imapd

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/backend/sessions/sessionstest"
	"github.com/postern-mail/postern/internal/testenv"
)

// A search ends when its client is gone, and not when it only sends no more.
func TestSearchOfNobody(t *testing.T) {
	t.Parallel()
	near, accepted := connected(t)
	served, done := make(chan net.Conn), make(chan struct{})
	defer close(done)
	door := sessions.NewDoor(sessions.NewRegistry(), sessions.Protocol{Name: "imap", Serve: func(_ context.Context, s *sessions.Session) string {
		served <- s.Conn() // as sessions have it
		<-done
		return ""
	}}, &sessionstest.Recorder{}, hclog.NewNullLogger())
	door.Configure(sessions.Config{MaxSessions: 1, MaxPerClient: -1})
	go door.ServeConn(context.Background(), accepted)
	far := <-served
	r := &sessionSearch{session: &session{socket: far, w: writer{conn: far, timeout: soon}}}
	if err := r.attend(); err != nil {
		t.Errorf("an open connection: %v", err)
	}
	if err := near.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, soon, func() error {
		if err := r.attend(); err != nil {
			return err
		}
		if !r.spoken {
			return errors.New("nothing was said")
		}
		return nil
	})
	line := make([]byte, 100)
	if n, err := near.Read(line); err != nil || string(line[:n]) != "* OK Searching\r\n" {
		t.Errorf("a client that listens reads %q, %v", line[:n], err)
	}
	r.spoken = false
	_ = near.Close()
	testenv.Eventually(t, soon, func() error {
		if err := r.attend(); err == nil {
			return errors.New("the search goes on")
		} else if !ends(err) {
			t.Errorf("%v does not end the session", err)
		}
		return nil
	})
}
