package sasl

import (
	"context"
	"errors"
	"testing"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// tickets opens acceptors that take the tokens "one" and "two".
type tickets struct {
	ready  bool
	open   error
	final  string // sent along with the success
	who    Principal
	err    error // of the second step
	opened []string
	closed int
}

func (k *tickets) Ready() bool { return k.ready }

func (k *tickets) Open(_ context.Context, mechanism, service string, _ mail.Client) (Acceptor, error) {
	k.opened = append(k.opened, mechanism+" "+service)
	return &ticket{k}, k.open
}

type ticket struct{ *tickets }

func (k *ticket) Step(_ context.Context, token []byte) ([]byte, bool, Principal, error) {
	switch string(token) {
	case "":
		return nil, false, Principal{}, nil
	case "one":
		return []byte("go on"), false, Principal{}, nil
	case "two":
		return []byte(k.final), k.err == nil, k.who, k.err
	}
	return nil, false, Principal{}, status.New(status.AuthFailed, errors.New("bad token"))
}

func (k *ticket) Close() { k.closed++ }

func TestGSSAPI(t *testing.T) {
	t.Parallel()
	alice := Principal{Login: "alice", Name: "alice@EXAMPLE.COM"}
	tests := []struct {
		name      string
		tickets   tickets
		responses []string
		want      status.Reason
		vouched   bool
	}{
		{"initial response", tickets{who: alice}, []string{"one", "two"}, status.OK, true},
		{"asked for", tickets{who: alice}, []string{"-", "one", "two"}, status.OK, true},
		{"a last word", tickets{who: alice, final: "bye"}, []string{"one", "two", ""}, status.OK, true},
		{"an answer to the last word", tickets{who: alice, final: "bye"}, []string{"one", "two", "x"}, status.ParameterSyntax, true},
		{"bad ticket", tickets{who: alice}, []string{"one", "three"}, status.AuthFailed, false},
		{"helper is down", tickets{open: errors.New("no helper")}, []string{"one"}, status.AuthTemporary, false},
		{"helper dies", tickets{err: errors.New("broken pipe")}, []string{"one", "two"}, status.AuthTemporary, false},
		{"nobody's principal", tickets{who: Principal{Name: "x@Y"}}, []string{"one", "two"}, status.AuthFailed, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.tickets.ready = true
			r := &recorder{}
			m, err := New(Config{}, Deps{Verifier: r, Acceptors: &tt.tickets})
			if err != nil {
				t.Fatal(err)
			}
			x, err := m.Start(t.Context(), "gssapi", "imap", protected)
			if err != nil {
				t.Fatal(err)
			}
			_, done, err := run(x, tt.responses)
			if status.Of(err) != tt.want || done != (tt.want == status.OK) {
				t.Fatalf("done %v, %v; want %v", done, err, tt.want)
			}
			if (len(r.vouched) == 1) != tt.vouched || len(r.refused)+len(r.vouched) != 1 {
				t.Errorf("vouched %+v, refused %+v", r.vouched, r.refused)
			}
			if tt.vouched && (r.vouched[0].By != authn.ByKerberos || r.vouched[0].Detail != alice.Name || r.vouched[0].Service != "imap") {
				t.Errorf("vouched %+v", r.vouched[0])
			}
			if err != nil && x.Identity() != (mail.Identity{}) {
				t.Errorf("identity %+v after %v", x.Identity(), err)
			}
			if tt.tickets.open == nil && tt.tickets.closed != 1 {
				t.Errorf("closed %d times", tt.tickets.closed)
			}
		})
	}
}

func TestAbandonedAcceptorIsClosed(t *testing.T) {
	t.Parallel()
	k := &tickets{ready: true}
	m, _ := New(Config{}, Deps{Verifier: &recorder{}, Acceptors: k})
	x, err := m.Start(t.Context(), GSSAPI, "imap", protected)
	if err != nil {
		t.Fatal(err)
	}
	x.Next([]byte("one"))
	x.Close()
	x.Close()
	if k.closed != 1 {
		t.Errorf("closed %d times", k.closed)
	}
	if _, _, err := x.Next([]byte("two")); err == nil {
		t.Error("went on after Close")
	}
}
