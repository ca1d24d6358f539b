package status

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestTableIsWhole(t *testing.T) {
	t.Parallel()
	names := make(map[string]Reason)
	for _, r := range Reasons() {
		w := table[r]
		if w.name == "" || w.code == 0 {
			t.Errorf("reason %d has no row", r)
			continue
		}
		if other, taken := names[w.name]; taken {
			t.Errorf("%s and %s share a name", r, other)
		}
		names[w.name] = r
		if w.enhanced != none && w.enhanced[0] != w.code/100 {
			t.Errorf("%s: enhanced status code %v contradicts %d", r, w.enhanced, w.code)
		}
		if w.code >= 400 && w.enhanced == none {
			t.Errorf("%s: a refusal without an enhanced status code", r)
		}
		if strings.ContainsAny(w.text, "\r\n") {
			t.Errorf("%s: line end in text", r)
		}
	}
}

// TestOutagesAreTransient holds the promise that an outage of ours never
// bounces mail, denies a person or calls a password wrong.
func TestOutagesAreTransient(t *testing.T) {
	t.Parallel()
	for _, r := range []Reason{
		Unknown, AuthTemporary, TLSUnavailable, DirectoryDown, StoreDown, ServerBusy, ConfigurationError, ShuttingDown,
		Timeout, BackendDown, MailSystemFull, MailboxFull, TooManyConnections, ConnectionFailed, ConnectionLost,
		AddressLoop, AddressAmbiguous, RemoteReply,
	} {
		if !r.Transient() {
			t.Errorf("%s is %d, must be transient", r, table[r].code)
		}
	}
}

func TestOf(t *testing.T) {
	t.Parallel()
	cause := errors.New("dial tcp: refused")
	wrapped := fmt.Errorf("resolve: %w", New(DirectoryDown, cause))
	for _, row := range []struct {
		err  error
		want Reason
	}{
		{nil, OK},
		{wrapped, DirectoryDown},
		{cause, Unknown},
		{fmt.Errorf("search: %w", context.DeadlineExceeded), ServerBusy},
	} {
		if got := Of(row.err); got != row.want {
			t.Errorf("Of(%v) = %s, want %s", row.err, got, row.want)
		}
	}
	if !errors.Is(wrapped, cause) {
		t.Error("the cause is lost")
	}
	if text := ReplyOf(wrapped).Text; strings.Contains(text, "dial") {
		t.Errorf("the peer is told our cause: %q", text)
	}
}

func TestRemoteReplyIsKept(t *testing.T) {
	t.Parallel()
	remote := Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: "Go\naway"}
	err := &Error{Reason: RemoteReply, Remote: &remote}
	if got := ReplyOf(err); got != remote {
		t.Errorf("got %v", got)
	}
	if got, want := remote.String(), "550 5.7.1 Go away"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCloses(t *testing.T) {
	t.Parallel()
	for _, r := range Reasons() {
		reply := r.Reply()
		if want := reply.Code == 421 || reply.Code == 521; reply.Closes() != want {
			t.Errorf("%s: Closes() = %v, want %v", r, !want, want)
		}
	}
}
