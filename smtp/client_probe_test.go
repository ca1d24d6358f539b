package smtp

import (
	"errors"
	"testing"

	"github.com/postern-mail/postern/status"
)

// TestClientProbe: a probe sends MAIL and RCPT and no content, its results are
// those of RCPT, and the connection serves the next message.
func TestClientProbe(t *testing.T) {
	t.Parallel()
	probe := func(to ...string) ClientMessage {
		m := clientText(0, "", to...)
		m.Probe, m.Content = true, nil
		return m
	}
	clientAgainst(t, ClientConfig{}, func(p *clientPeer) {
		p.say("220 peer")
		p.expect(t, "EHLO", "250-peer", "250 PIPELINING")
		p.expect(t, "MAIL FROM:<sender@example.org>", "250 ok")
		p.expect(t, "RCPT TO:<a@example.com>", "250 2.1.5 there")
		p.expect(t, "RCPT TO:<b@example.com>", "550 5.1.1 nobody")
		p.expect(t, "RSET", "250 ok")
		p.expect(t, "MAIL", "550 5.7.1 not you")
		p.expect(t, "RCPT", "503 5.5.1 no")
		p.expect(t, "RSET", "250 ok")
		p.expect(t, "MAIL", "250 ok")
	}, func(c *Client) {
		got := c.Send(t.Context(), probe("a@example.com", "b@example.com"))
		if got[0].Err != nil || got[0].Reply.String() != "250 2.1.5 there" {
			t.Errorf("first: %+v", got[0])
		}
		if status.Of(got[1].Err) != status.RemoteReply || got[1].Reply.String() != "550 5.1.1 nobody" {
			t.Errorf("second: %+v", got[1])
		}
		if err := c.Reset(t.Context()); err != nil || !c.Usable() {
			t.Errorf("%v", err)
		}
		got = c.Send(t.Context(), probe("a@example.com"))
		var refused *status.Error
		if !errors.As(got[0].Err, &refused) || refused.Remote == nil || got[0].Reply.Code/100 != 5 {
			t.Errorf("refused MAIL: %+v", got[0])
		}
		if err := c.Reset(t.Context()); err != nil {
			t.Error(err)
		}
		// The connection is lost: nobody is refused for good.
		got = c.Send(t.Context(), probe("a@example.com"))
		if got[0].Err == nil || status.Of(got[0].Err).Permanent() {
			t.Errorf("lost: %+v", got[0])
		}
	})
}
