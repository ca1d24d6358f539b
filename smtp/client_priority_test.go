package smtp

import "testing"

// TestClientPriority: a peer that offers MT-PRIORITY is told of a priority, and
// no other.
func TestClientPriority(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		offered  string
		priority int8
		want     string
	}{
		{"MT-PRIORITY MIXER", 4, "MAIL FROM:<sender@example.org> MT-PRIORITY=4"},
		{"mt-priority", -9, "MAIL FROM:<sender@example.org> MT-PRIORITY=-9"},
		{"MT-PRIORITY", 0, "MAIL FROM:<sender@example.org>"},
		{"MT-PRIORITY", 100, "MAIL FROM:<sender@example.org>"},
		{"DSN", 4, "MAIL FROM:<sender@example.org>"},
	} {
		clientAgainst(t, ClientConfig{}, func(p *clientPeer) {
			p.say("220 x")
			p.expect(t, "EHLO", "250-x", "250 "+tt.offered)
			if got := p.line(); got != tt.want {
				t.Errorf("%s: %q, want %q", tt.offered, got, tt.want)
			}
			p.say("550 5.7.1 no")
		}, func(c *Client) {
			m := clientText(0, clientLetter, "a@example.com")
			m.From.Priority = tt.priority
			c.Send(t.Context(), m)
		})
	}
}
