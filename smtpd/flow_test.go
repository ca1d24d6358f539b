package smtpd

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// TestHeaderLimits: what is a header of reasonable size passes whole, what is
// not is refused, and what is no header is not counted as one.
func TestHeaderLimits(t *testing.T) {
	t.Parallel()
	const limit = 102400
	field := func(octets int) string { return "X: " + strings.Repeat("y", octets-5) + "\r\n" }
	folded := "To: a\r\n" + strings.Repeat(" <somebody@example.com>,\r\n", 5000) // 125 kB
	for name, tt := range map[string]struct {
		message string
		tooBig  bool
	}{
		"small":                     {"Subject: x\r\n\r\nbody\r\n", false},
		"field of the limit":        {field(limit) + "\r\nbody", false},
		"field above it":            {field(limit+1) + "\r\nbody", true},
		"folded field above it":     {folded + "Subject: x\r\n\r\n", true},
		"field without an end":      {"Subject: " + strings.Repeat("x", 1<<20), true},
		"many fields":               {strings.Repeat(field(1000), 400) + "\r\nbody", false},
		"too many fields":           {strings.Repeat(field(1000), 420) + "\r\nbody", true},
		"header without an end":     {strings.Repeat("Received: loop\r\n", 1<<16), true},
		"large body":                {"Subject: x\r\n\r\n" + strings.Repeat("a line of the body\r\n", 1<<16), false},
		"large body without header": {strings.Repeat("no header here\r\n", 1<<16), false},
		"indented body":             {strings.Repeat("  no header here\r\n", 1<<16), false},
		"one long line":             {strings.Repeat("x", 1<<20), false},
		"header that breaks off":    {"Subject: x\r\n" + strings.Repeat("a line of the body\r\n", 1<<16), false},
		"empty":                     {"", false},
	} {
		for _, step := range []int{1 << 20, 4093} {
			h := newHead()
			r := &chunks{rest: tt.message, step: step}
			err := h.read(r, limit)
			if tooBig := status.Of(err) == status.HeaderTooBig && err != nil; tooBig != tt.tooBig || err != nil && !tooBig {
				t.Errorf("%s: %v", name, err)
			}
			if err == nil {
				rest, _ := io.ReadAll(r)
				got, _ := io.ReadAll(h.reader())
				if string(got)+string(rest) != tt.message {
					t.Errorf("%s: octets are lost", name)
				}
			}
			h.free()
		}
	}
}

// TestReceivedBehindLargeFields: fields beyond the first 100 KiB are counted.
func TestReceivedBehindLargeFields(t *testing.T) {
	t.Parallel()
	h := newHead()
	defer h.free()
	filler := strings.Repeat("X-Filler: "+strings.Repeat("x", 900)+"\r\n", 150)
	if err := h.read(strings.NewReader(filler+strings.Repeat("Received: from a\r\n", 60)+"\r\nbody"), 102400); err != nil {
		t.Fatal(err)
	}
	if got := h.facts().received; got != 60 {
		t.Errorf("%d Received fields seen", got)
	}
}

// exchange sends one message and returns how long its answer took.
func exchange(t *testing.T, h *Handler, client *mail.Client, q *fakeQueue, body string) (time.Duration, error) {
	t.Helper()
	ctx := t.Context()
	s, err := h.NewSession(ctx, client)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(nil)
	tx, err := s.Mail(ctx, smtp.MailCommand{ReversePath: mailAddress("s@sender.example")})
	if err != nil {
		return 0, err
	}
	if err := tx.Rcpt(ctx, smtp.RcptCommand{ForwardPath: mailAddress("alice@example.com")}); err != nil {
		return 0, err
	}
	if err := tx.Data(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	_, err = tx.Content(ctx, strings.NewReader(body))
	return time.Since(began), err
}

// TestFlowDelay: while mail comes in faster than it goes out a client from
// outside waits for its answer, the message being safe already; near clients
// and what was delivered at once do not.
func TestFlowDelay(t *testing.T) {
	t.Parallel()
	outside := netip.MustParseAddrPort("198.51.100.7:4711")
	for name, tt := range map[string]struct {
		remote  netip.AddrPort
		pressed bool
		nextHop string
		want    time.Duration
	}{
		"at ease":             {outside, false, "", 0},
		"outside":             {outside, true, "", time.Second},
		"delivered at once":   {outside, true, "takes", 0},
		"our network":         {netip.MustParseAddrPort("10.1.2.3:4711"), true, "", 0},
		"our network, mapped": {netip.MustParseAddrPort("[::ffff:10.1.2.3]:4711"), true, "", 0},
		"user of the machine": {netip.AddrPort{}, true, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := &fakeQueue{pressed: tt.pressed}
				h := scene{NextHop: tt.nextHop}.build(t, q, &recorder{})
				h.cfg.FlowDelay, h.cfg.FlowExempt = time.Second, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
				took, err := exchange(t, h, &mail.Client{Helo: "client.example", Extended: true, Remote: tt.remote}, q, "Subject: x\r\n\r\n")
				if err != nil || took != tt.want || len(q.accepted) != 1 {
					t.Errorf("took %v, want %v; %v; %d accepted", took, tt.want, err, len(q.accepted))
				}
			})
		})
	}
}

// TestFlowDelayEnds: a server that stops does not wait.
func TestFlowDelayEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &fakeQueue{pressed: true}
		h := scene{}.build(t, q, &recorder{})
		h.cfg.FlowDelay = time.Hour
		client := &mail.Client{Helo: "client.example", Extended: true, Remote: netip.MustParseAddrPort("198.51.100.7:4711")}
		s, err := h.NewSession(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		tx, err := s.Mail(t.Context(), smtp.MailCommand{ReversePath: mailAddress("s@sender.example")})
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Rcpt(t.Context(), smtp.RcptCommand{ForwardPath: mailAddress("alice@example.com")}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		if _, err := tx.Content(ctx, strings.NewReader("\r\n")); err != nil || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// TestQueueFull: the client learns at DATA that the queue has no place, before
// it sends the message.
func TestQueueFull(t *testing.T) {
	t.Parallel()
	q := &fakeQueue{noPlace: true}
	h := scene{}.build(t, q, &recorder{})
	_, err := exchange(t, h, &mail.Client{Helo: "client.example", Extended: true}, q, "\r\n")
	var known *status.Error
	if !errors.As(err, &known) || known.Reason != status.QueueFull || len(q.accepted) != 0 {
		t.Errorf("%v", err)
	}
}

// TestHeaderTooBigIsRefused: the refusal is permanent and the session goes on.
func TestHeaderTooBigIsRefused(t *testing.T) {
	t.Parallel()
	q := &fakeQueue{}
	h := scene{}.build(t, q, &recorder{})
	_, err := exchange(t, h, &mail.Client{Helo: "client.example", Extended: true}, q, "X: "+strings.Repeat("y", 1<<17)+"\r\n\r\nbody\r\n")
	if reply := status.ReplyOf(err); reply.Code != 552 || reply.EnhancedString() != "5.3.4" || len(q.accepted) != 0 {
		t.Errorf("%v", err)
	}
}
