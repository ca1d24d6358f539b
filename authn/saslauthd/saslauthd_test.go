package saslauthd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/status"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func newVerifier(t *testing.T, cfg Config) *Verifier {
	t.Helper()
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func attempt(login, password string) authn.Attempt {
	return authn.Attempt{Login: login, Password: password, Service: "imaps"}
}

// kind sorts an answer the way the chain does.
func kind(err error) string {
	switch {
	case err == nil:
		return "yes"
	case errors.Is(err, authn.ErrRefused) && status.Of(err) == status.AuthFailed:
		return "account"
	case status.Of(err) == status.AuthFailed:
		return "no"
	}
	return "unknown"
}

// TestSaslauthd asks a real one that asks a real Dovecot in turn: yes, no, and
// what it says when Dovecot is gone, and when it is gone itself.
func TestSaslauthd(t *testing.T) {
	t.Parallel()
	dovecot := testenv.Dovecot(t, "alice@example.com")
	s := testenv.Saslauthd(t, dovecot.IMAP)
	v := newVerifier(t, Config{Socket: s.Socket, Timeout: 2 * time.Minute})
	ask := func(what, password, want string) {
		t.Helper()
		identity, err := v.Verify(t.Context(), attempt("alice@example.com", password))
		if kind(err) != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
		if err == nil && identity.Authentication != "alice@example.com" {
			t.Errorf("%s: identity %+v", what, identity)
		}
	}
	ask("right password", dovecot.Password, "yes")
	ask("wrong password", "wrong", "no")
	dovecot.Process().Kill()
	ask("without Dovecot", dovecot.Password, "unknown")
	s.Process().Kill()
	ask("without saslauthd", dovecot.Password, "unknown")
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		"OK":                                     "yes",
		"OK remote authentication successful":    "yes",
		"OK\x00":                                 "yes",
		"OKAY":                                   "unknown",
		"NO":                                     "no",
		"NO\x00":                                 "no",
		"NO Incorrect password":                  "no",
		"NO Invalid username":                    "no",
		"NO PAM auth error":                      "no",
		"NO krb5_get_init_creds_password failed": "no",
		"NO remote server rejected your credentials":                           "no",
		"NO Account expired":                                                   "account",
		"NO PAM acct error":                                                    "account",
		"NO saslauthd internal error":                                          "unknown",
		"NO PAM start error":                                                   "unknown",
		"NO Username lookup failure: Too many open files":                      "unknown",
		"NO [ALERT] Couldn't contact remote authentication server":             "unknown",
		"NO [ALERT] The remote authentication server is currently unavailable": "unknown",
		"": "unknown",
	} {
		if err := judge(answer); kind(err) != want {
			t.Errorf("%q: %v, want %s", answer, err, want)
		}
	}
}

// answering listens on a socket, hands the octets of a question to asked and
// answers.
func answering(t *testing.T, answer []byte) (socket string, asked chan []string) {
	t.Helper()
	socket, asked = filepath.Join(testenv.TempDir(t), "mux"), make(chan []string, 1)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var fields []string
		for range 4 {
			var count [2]byte
			if _, err := io.ReadFull(conn, count[:]); err != nil {
				return
			}
			field := make([]byte, binary.BigEndian.Uint16(count[:]))
			if _, err := io.ReadFull(conn, field); err != nil {
				return
			}
			fields = append(fields, string(field))
		}
		asked <- fields
		_, _ = conn.Write(answer)
		if answer == nil {
			_, _ = io.Copy(io.Discard, conn) // until the client gives up
		}
	})
	return socket, asked
}

func TestQuestion(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cfg   Config
		login string
		want  [4]string
	}{
		"address":          {Config{}, "alice@example.com", [4]string{"alice", "secret", "imap", "example.com"}},
		"name":             {Config{}, "alice", [4]string{"alice", "secret", "imap", ""}},
		"realm":            {Config{Realm: "corp"}, "alice@example.com", [4]string{"alice@example.com", "secret", "imap", "corp"}},
		"service":          {Config{Service: "login"}, "alice", [4]string{"alice", "secret", "login", ""}},
		"at the beginning": {Config{}, "@alice", [4]string{"@alice", "secret", "imap", ""}},
	} {
		socket, asked := answering(t, []byte("\x00\x02OK"))
		test.cfg.Socket = socket
		identity, err := newVerifier(t, test.cfg).Verify(t.Context(), attempt(test.login, "secret"))
		if err != nil || identity.Authentication != test.login {
			t.Errorf("%s: %+v, %v", name, identity, err)
			continue
		}
		if got := [4]string(<-asked); got != test.want {
			t.Errorf("%s: asked %q, want %q", name, got, test.want)
		}
	}
}

func TestNoAnswer(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string][]byte{"none": nil, "cut": []byte("\x00\x10NO"), "too long": []byte("\xff\xffOK"), "too short": []byte("\x00\x01O")} {
		socket, _ := answering(t, answer)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if _, err := newVerifier(t, Config{Socket: socket}).Verify(ctx, attempt("alice", "secret")); kind(err) != "unknown" {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	if _, err := newVerifier(t, Config{}).Verify(t.Context(), attempt("alice", "a\x00b")); kind(err) != "no" {
		t.Errorf("a NUL in the password: %v", err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("\x00\x02OK"))
	f.Add([]byte("\x00\x05NO no"))
	f.Fuzz(func(t *testing.T, said []byte) {
		if answer, err := readAnswer(bytes.NewReader(said)); err == nil && judge(answer) == nil && !bytes.HasPrefix(said[2:], []byte("OK")) {
			t.Fatalf("%q was taken for a yes", said)
		}
	})
}
