package content

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// from takes in a message of a client, "" for nobody in particular.
func from(s *Spool, client string, octets int) (*Message, error) {
	limits := Limits{}
	if client != "" {
		limits.Client = netip.MustParsePrefix(client)
	}
	return New(s, limits, nil, []mail.Field{"Subject: x"}, io.MultiReader(bytes.NewReader(crlf), bytes.NewReader(make([]byte, octets))))
}

// TestOneClientHasAShare: beyond it that client waits, and nobody else does.
func TestOneClientHasAShare(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolConfig{MaxOctets: 16 << 20})
	var held []*Message
	for range 4 {
		m, err := from(s, "192.0.2.1/32", 1<<20-chunkOctets)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, m)
	}
	if _, err := from(s, "192.0.2.1/32", 1<<20); status.Of(err) != status.MailSystemFull || errors.Is(err, ErrTooLarge) {
		t.Errorf("the client's fifth message: %v", err)
	}
	if _, err := held[0].Keep(bytes.NewReader(make([]byte, 1<<20))); status.Of(err) != status.MailSystemFull {
		t.Errorf("what is unpacked of its message: %v", err)
	}
	for _, other := range []string{"192.0.2.2/32", "2001:db8::/64", ""} {
		m, err := from(s, other, 1<<20)
		if err != nil {
			t.Errorf("%s: %v", other, err)
			continue
		}
		held = append(held, m)
	}
	if got := s.Usage().Clients; got != 3 {
		t.Errorf("%d clients", got)
	}
	held[0].Close()
	again, err := from(s, "192.0.2.1/32", 1<<19)
	if err != nil {
		t.Errorf("after one of its messages went: %v", err)
	}
	again.Close()
	for _, m := range held[1:] {
		m.Close()
	}
	if got := s.Usage(); got.Octets != 0 || got.Clients != 0 {
		t.Errorf("it holds %+v", got)
	}
	empty(t, s)
}

// TestManyClientsLeaveRoom: who holds much gets nothing of the last quarter.
func TestManyClientsLeaveRoom(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolConfig{MaxOctets: 16 << 20, MaxClientOctets: 8 << 20})
	greedy := 0
	for i := range 20 {
		client := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32)
		m, err := from(s, client.String(), 3<<20-chunkOctets)
		if err != nil {
			if status.Of(err) != status.MailSystemFull {
				t.Fatal(err)
			}
			continue
		}
		defer m.Close()
		greedy++
	}
	if greedy != 4 {
		t.Errorf("%d clients hold three quarters", greedy)
	}
	for range 8 {
		m, err := from(s, "198.51.100.1/32", 100<<10)
		if err != nil {
			t.Fatalf("ordinary mail: %v", err)
		}
		defer m.Close()
	}
}

// TestAloneAMessageFits, even where it takes the last quarter, and what never
// fits is told from what does not fit now.
func TestAloneAMessageFits(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolConfig{MaxOctets: 8 << 20, MaxClientOctets: 8 << 20})
	m, err := from(s, "192.0.2.1/32", 4<<20-1<<16)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Apply(mail.Edit{Body: m.Body()}); err != nil {
		t.Errorf("its changed copy: %v", err)
	}
	if _, err := m.Keep(bytes.NewReader(make([]byte, 8<<20))); status.Of(err) != status.MailSystemFull {
		t.Errorf("more than there is: %v", err)
	}
	m.Close()
	small := openSpool(t, SpoolConfig{MaxOctets: 8 << 20})
	m, err = from(small, "192.0.2.1/32", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Keep(bytes.NewReader(make([]byte, 2<<20))); !errors.Is(err, ErrTooLarge) {
		t.Errorf("more than one client may hold: %v", err)
	}
	m.Close()
	if _, err := from(small, "192.0.2.1/32", 3<<20); status.Of(err) != status.MailSystemFull {
		t.Errorf("a message that never fits: %v", err)
	}
	if got := small.Usage(); got.Octets != 0 || got.Clients != 0 {
		t.Errorf("it holds %+v", got)
	}
}
