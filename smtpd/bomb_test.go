package smtpd

import (
	"context"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// discardingQueue stages without keeping.
type discardingQueue struct{ *fakeQueue }

func (q discardingQueue) Stage(ctx context.Context, r io.Reader) (store.Staged, error) {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, err
	}
	return q.fakeQueue.Stage(ctx, strings.NewReader(""))
}

// endless repeats a text so many times.
type endless struct {
	text string
	left int
	rest string
}

func (e *endless) Read(p []byte) (int, error) {
	if e.rest == "" {
		if e.left == 0 {
			return 0, io.EOF
		}
		e.left, e.rest = e.left-1, e.text
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// TestHeaderBombs: what is no header of a sane message is refused, and takes no
// more memory than a header may; both where messages stream and where they are
// looked into.
func TestHeaderBombs(t *testing.T) {
	reads := func(_ context.Context, tx *mail.Transaction) (mail.Verdict, error) {
		_, err := io.Copy(io.Discard, tx.Message.Body())
		return mail.Verdict{}, err
	}
	for _, list := range [][]string{{}, {"look"}} {
		for name, tt := range map[string]struct {
			text string
			n    int
			want status.Reason
		}{
			"Received":             {"Received: from a by b; Sun, 22 Nov 2026 04:00:00 +0000\r\n", 100000, status.HeaderTooBig},
			"Received, few octets": {"Received:\r\n", 5000, status.MailLoop},
			"fields":               {"X: y\r\n", 1000000, status.HeaderTooBig},
			"one field":            {" folded\r\n", 1000000, status.OK}, // no header at all: a body
			"one endless field":    {"X: " + strings.Repeat("y", 1<<20), 20, status.HeaderTooBig},
			"one endless line":     {strings.Repeat("y", 1<<20), 20, status.OK},
			"empty lines":          {"\r\n", 1000000, status.OK},
			"NUL":                  {"\x00", 1000000, status.OK},
		} {
			q := &fakeQueue{forget: true}
			h, spool := asking(t, q, silent{}, stages{"look": reads}, list...)
			h.deps.Queue = discardingQueue{q}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r := deliver(t, h, &endless{text: tt.text, left: tt.n}, "alice@example.com")
			runtime.ReadMemStats(&after)
			if len(list) > 0 && int64(len(tt.text)*tt.n) > 4<<20 && tt.want == status.OK {
				tt.want = status.MailSystemFull // of the small spool
			}
			if want := tt.want.Reply(); r.Code != want.Code {
				t.Errorf("%s, %v: %v, want %v", name, list, r, want)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
				t.Errorf("%s, %v: %d octets of memory", name, list, took)
			}
			if all, _ := spool.Octets(); all != 0 {
				t.Errorf("%s: %d octets are left in the spool", name, all)
			}
		}
	}
}

// TestEightBitsAfterEdits: what stages write may need more of the next hop than
// what came; what came needs no more than it said.
func TestEightBitsAfterEdits(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text  string
		edit  mail.Edit
		utf8  bool
		eight bool
	}{
		"ASCII":                {"Subject: x\r\n\r\nx\r\n", mail.Edit{PrependHeader: "X: y"}, false, false},
		"came with eight bits": {"Subject: \xff\r\n\r\n\xff\r\n", mail.Edit{PrependHeader: "X: \u00fc"}, false, false},
		"header":               {"Subject: x\r\n\r\n\xff\r\n", mail.Edit{PrependHeader: "X: \u00fc"}, true, false},
		"body":                 {"Subject: x\r\n\r\nx\r\n", mail.Edit{Body: strings.NewReader("\u00fc")}, false, true},
	} {
		q := &fakeQueue{}
		h, _ := asking(t, q, silent{}, stages{"edit": edits(tt.edit)}, "edit")
		if r := deliver(t, h, strings.NewReader(tt.text), "alice@example.com"); r.Code != 250 {
			t.Fatal(r)
		}
		if e := q.accepted[0].Envelope; e.SMTPUTF8 != tt.utf8 || (e.Body == mail.Body8BitMIME) != tt.eight {
			t.Errorf("%s: SMTPUTF8 %t, BODY %q", name, e.SMTPUTF8, e.Body)
		}
	}
}
