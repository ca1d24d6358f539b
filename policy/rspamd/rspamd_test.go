package rspamd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

var server3 = testenv.NewShared(testenv.Rspamd)

// letter is a message in memory.
type letter struct {
	fields []mail.Field
	body   string
	read   error // after the body
}

func (l *letter) Fields() []mail.Field { return l.fields }
func (l *letter) Ours() int            { return 1 }
func (l *letter) BodyOctets() int64    { return int64(len(l.body)) }

func (l *letter) Body() io.ReadSeeker {
	if l.read != nil {
		return broken{strings.NewReader(l.body[:len(l.body)/2]), l.read}
	}
	return strings.NewReader(l.body)
}

type broken struct {
	*strings.Reader
	err error
}

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = b.err
	}
	return n, err
}

func (l *letter) Apply(e mail.Edit) error {
	switch {
	case e.Insert != nil && e.Insert.At <= len(l.fields):
		l.fields = slices.Insert(l.fields, e.Insert.At, e.Insert.Field)
	case e.Change != nil && e.Change.At < len(l.fields) && e.Change.Field == "":
		l.fields = slices.Delete(l.fields, e.Change.At, e.Change.At+1)
	case e.Change != nil && e.Change.At < len(l.fields):
		l.fields[e.Change.At] = e.Change.Field
	case e.OfEnvelope():
	default:
		return fmt.Errorf("cannot apply %+v", e)
	}
	return nil
}

func (l *letter) values(name string) []string {
	var all []string
	for _, f := range l.fields {
		if f.Is(name) {
			all = append(all, f.Unfolded())
		}
	}
	return all
}

func newLetter(fields ...mail.Field) *letter {
	return &letter{
		fields: append([]mail.Field{"Received: by mx.example.com", "From: a@sender.example", "Subject: one\r\n two"}, fields...),
		body:   "Hello\r\n",
	}
}

func address(s string) mail.Address {
	a, err := mail.ParseAddress(s)
	if err != nil {
		panic(err)
	}
	return a
}

func transaction(l *letter) *mail.Transaction {
	return &mail.Transaction{
		QueueID: "Q1", Phase: mail.PhaseEndOfData, Message: l,
		Client: mail.Client{Listener: "mx", Remote: netip.MustParseAddrPort("192.0.2.7:4711"), Hostname: "client.example", Helo: "helo.example",
			TLS: &mail.TLSInfo{Version: "TLSv1.3", Cipher: "TLS_AES_128_GCM_SHA256"}},
		Envelope: mail.Envelope{ReversePath: address("a@sender.example"),
			Recipients: []mail.Recipient{{Address: address("b@example.com")}, {Address: address("c@example.com")}}},
	}
}

func spec(args map[string]string) policy.Spec {
	s := policy.Spec{Name: Name, Args: map[string][]string{}}
	for name, value := range args {
		s.Args[name] = strings.Split(value, "|")
	}
	return s
}

func newStage(t testing.TB, args map[string]string) *Stage {
	t.Helper()
	cfg, err := Parse(spec(args))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Hostname = "mx.example.com"
	s, err := New(cfg, NewMemory(), hclog.NewNullLogger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// evaluate asks about a message and applies what comes of it.
func evaluate(t *testing.T, s *Stage, tx *mail.Transaction) mail.Verdict {
	t.Helper()
	v, err := s.Evaluate(context.Background(), tx)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range v.Edits {
		if err := tx.Message.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	if !tx.Message.Fields()[0].Is("Received") {
		t.Errorf("our trace is not on top: %q", tx.Message.Fields())
	}
	return v
}

func TestRealRspamd(t *testing.T) {
	t.Parallel()
	r := server3.Get(t)
	s := newStage(t, map[string]string{"url": r.URL, "headers": "always"})
	for _, row := range []struct {
		field mail.Field
		want  string
	}{
		{"X-None: 1", "dunno"},
		{"X-Want: reject", "550 5.7.1 Spam message rejected"},
		{"X-Want: reject\r\nX-Want-Message: go away", "550 5.7.1 go away"},
		{"X-Want: soft reject", "451 4.7.1 Try again later"},
		{"X-Want: greylist", "451 4.7.1 Try again later"},
		{"X-Want: discard", "discard"},
		{"X-Want: quarantine", "hold"},
		{"X-Want: add header", "dunno"},
		{"X-Want: rewrite subject", "dunno"},
	} {
		var fields []mail.Field
		for _, f := range strings.Split(string(row.field), "\r\n") {
			fields = append(fields, mail.Field(f))
		}
		l := newLetter(fields...)
		v := evaluate(t, s, transaction(l))
		got := v.Action.String()
		if v.Action == mail.Reject {
			got = v.WireReply().String()
		}
		if got != row.want {
			t.Errorf("%q: got %q, want %q; %s", row.field, got, row.want, v.Detail)
		}
		if len(v.Findings) != 1 || v.Findings[0].Method != "x-rspamd" {
			t.Errorf("%q: findings %+v", row.field, v.Findings)
		}
		if spam := slices.Contains(l.values("X-Spam"), "Yes"); spam != strings.Contains(string(row.field), "add header") && !strings.Contains(string(row.field), "subject") {
			t.Errorf("%q: fields %q", row.field, l.fields)
		}
	}
	l := newLetter("X-Want: rewrite subject", "X-Want-Subject: [SPAM] one two")
	evaluate(t, s, transaction(l))
	if got := l.values("Subject"); !slices.Equal(got, []string{"[SPAM] one two"}) && !slices.Equal(got, []string{"*** SPAM *** one two"}) {
		t.Errorf("subject %q", got)
	}
	l = newLetter("X-Want-Edits: yes", "X-Remove: 1", "X-Remove: 2", "X-Want-Symbol: seen", "X-Spam: No", "X-Spam-Score: -100")
	v := evaluate(t, s, transaction(l))
	if !slices.Equal(l.values("X-Added"), []string{"one"}) || len(l.values("X-Remove"))+len(l.values("X-Spam")) != 0 ||
		!slices.Equal(l.values("X-Spam-Score"), []string{"1.50 / 900.00"}) || !strings.Contains(l.values("X-Spam-Symbols")[0], "TEST_SYMBOL(1.50)") {
		t.Errorf("fields %q", l.fields)
	}
	var envelope []string
	for _, e := range v.Edits {
		if e.ReversePath != nil {
			envelope = append(envelope, "from "+e.ReversePath.String())
		}
		if e.Add != nil {
			envelope = append(envelope, "to "+e.Add.Address.String())
		}
	}
	if !slices.Equal(envelope, []string{"from changed@example.com", "to carol@example.com"}) {
		t.Errorf("envelope %q", envelope)
	}
}

// What rspamd was told of client and envelope, in its own words.
func TestMetadata(t *testing.T) {
	t.Parallel()
	r := server3.Get(t)
	s := newStage(t, map[string]string{"url": r.URL})
	for _, null := range []bool{false, true} {
		tx := transaction(newLetter())
		tx.Client.Identity = &mail.Identity{Authentication: "alice"}
		from := "from=a@sender.example"
		if null {
			tx.Envelope.ReversePath, from = mail.Address{}, "from="
		}
		tx.Message = &letter{fields: newLetter().fields, body: strings.Repeat("0123456789abcde\n", 20_000)}
		a, err := s.ask(context.Background(), tx, headOf(tx.Message).Bytes())
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"ip=192.0.2.7", "helo=helo.example", "host=client.example", "user=alice", "queue=Q1", "tls=TLSv1.3", from, "rcpt=b@example.com", "rcpt=c@example.com"}
		if got := []string(a.Symbols["METADATA"].Options); !slices.Equal(got, want) {
			t.Errorf("rspamd knows %q, want %q", got, want)
		}
	}
}

func answering(t testing.TB, status int, body string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // the client may be gone
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// However a server fails: mail from elsewhere waits, mail of people goes on
// with a mark, and other words of the configuration are kept to.
func TestFaults(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	t.Cleanup(silent.CloseClientConnections)
	half := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"action":"reject"`) // and no more
	}))
	t.Cleanup(half.Close)
	for name, url := range map[string]string{
		"down":               "unix:" + filepath.Join(t.TempDir(), "none"),
		"silent":             silent.URL,
		"half an answer":     half.URL,
		"an error":           answering(t, 500, `{"action":"reject"}`),
		"forbidden":          answering(t, 403, `{"error":"unauthorized"}`),
		"a redirection":      answering(t, 302, `{"action":"reject"}`),
		"junk":               answering(t, 200, `<html>`),
		"nothing":            answering(t, 200, ``),
		"no action":          answering(t, 200, `{"score":100}`),
		"an error inside":    answering(t, 200, `{"error":"cannot","action":"reject"}`),
		"huge":               answering(t, 200, `{"action":"reject","x":"`+strings.Repeat("x", maxAnswer)+`"}`),
		"a flood of edits":   answering(t, 200, `{"action":"no action","milter":{"add_rcpt":["a@b.example"`+strings.Repeat(`,"a@b.example"`, maxEdits)+`]}}`),
		"fields of one name": answering(t, 200, `{"action":"no action","milter":{"add_headers":{"X":["1"`+strings.Repeat(`,"1"`, maxEdits)+`]}}}`),
		"numbers of fields":  answering(t, 200, `{"action":"no action","milter":{"remove_headers":{"X":[1`+strings.Repeat(`,1`, maxEdits)+`]}}}`),
		"a field in a name":  answering(t, 200, `{"action":"no action","milter":{"add_headers":{"X: 1\nY":"1"}}}`),
		"no address":         answering(t, 200, `{"action":"no action","milter":{"change_from":"a b"}}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, map[string]string{"url": url, "timeout": "200ms"})
			v, err := s.Evaluate(context.Background(), transaction(newLetter()))
			if status.Of(err) != status.FilterDown || v.Action != mail.Dunno || len(v.Edits) > 0 {
				t.Errorf("from elsewhere: %+v, %v", v, err)
			}
			people := transaction(newLetter("X-Spam-Unchecked: No"))
			people.Client.Identity = &mail.Identity{Authentication: "alice"}
			l := people.Message.(*letter)
			if v := evaluate(t, s, people); v.Action != mail.Dunno || v.Detail == "" || !slices.Equal(l.values(unchecked), []string{"Yes"}) {
				t.Errorf("of people: %+v, %q", v, l.fields)
			}
			for _, setting := range []string{"authenticated", "on_error"} {
				s := newStage(t, map[string]string{"url": url, "timeout": "200ms", setting: "defer"})
				if v, err := s.Evaluate(context.Background(), people); status.Of(err) != status.FilterDown {
					t.Errorf("of people, %s = defer: %+v, %v", setting, v, err)
				}
			}
		})
	}
}

// TestManyMessagesAtASilentServer: a hundred messages at once are all put off,
// and nothing is left that waits. It runs alone, for it counts goroutines.
func TestManyMessagesAtASilentServer(t *testing.T) { //nolint:paralleltest // see above
	before := runtime.NumGoroutine()
	hang := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	cfg, err := Parse(spec(map[string]string{"url": silent.URL, "timeout": "1s"}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(cfg, NewMemory(), hclog.NewNullLogger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if v, err := s.Evaluate(context.Background(), transaction(newLetter())); status.Of(err) != status.FilterDown || !status.FilterDown.Reply().Transient() {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
	all.Wait()
	if st := s.States()[silent.URL]; !st.Down || st.Failure == nil {
		t.Errorf("the server counts as %+v", st)
	}
	close(hang)
	silent.Close()
	testenv.Eventually(t, 2*time.Minute, func() error {
		if n := runtime.NumGoroutine(); n > before {
			return fmt.Errorf("%d goroutines, %d before", n, before)
		}
		return nil
	})
}

// The second server answers where the first does not, which is then left alone.
func TestSeveralServers(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer first.Close()
	var lines strings.Builder
	cfg, err := Parse(spec(map[string]string{"url": first.URL + "|" + answering(t, 200, `{"action":"add header"}`)}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(cfg, NewMemory(), hclog.New(&hclog.LoggerOptions{Output: &lines}), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		l := newLetter()
		if evaluate(t, s, transaction(l)); !slices.Equal(l.values("X-Spam"), []string{"Yes"}) {
			t.Errorf("fields %q", l.fields)
		}
	}
	// Three times, and again after each pause that is over before the test is:
	// after one, two and four seconds.
	if n := asked.Load(); n < 3 || n > 6 {
		t.Errorf("the first was asked %d times", n)
	}
	if n := strings.Count(lines.String(), "\n"); n != 1 || !strings.Contains(lines.String(), "rspamd is down") {
		t.Errorf("%d lines:\n%s", n, lines.String())
	}
}

func TestUnixSocketAndKeptConnections(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testenv.TempDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var connections atomic.Int32
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil || string(body) != "From: a@sender.example\r\nSubject: one\r\n two\r\n\r\nHello\r\n" || r.URL.Path != "/checkv2" {
				http.Error(w, "wrong", http.StatusBadRequest)
				return
			}
			_, _ = io.WriteString(w, `{"action":"no action"}`) // the client waits for it
		}),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	s := newStage(t, map[string]string{"url": "unix:" + path})
	for range 3 {
		if v := evaluate(t, s, transaction(newLetter())); v.Action != mail.Dunno || v.Detail != "" {
			t.Errorf("%+v", v)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	server.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Password") != "secret" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, `{"action":"no action"}`) // the client waits for it
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "password")
	s := newStage(t, map[string]string{"url": server.URL, "password_file": file})
	if _, err := s.Evaluate(context.Background(), transaction(newLetter())); status.Of(err) != status.FilterDown {
		t.Errorf("without the file: %v", err)
	}
	for content, want := range map[string]status.Reason{"secret\r\nmore\n": status.Unknown, "wrong": status.FilterDown} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Evaluate(context.Background(), transaction(newLetter())); err != nil && status.Of(err) != want || err == nil && want == status.FilterDown {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestChoices(t *testing.T) {
	t.Parallel()
	reject, greylist := answering(t, 200, `{"action":"reject"}`), answering(t, 200, `{"action":"greylist"}`)
	if v := evaluate(t, newStage(t, map[string]string{"url": reject, "reject": "hold"}), transaction(newLetter())); v.Action != mail.Hold {
		t.Errorf("reject = hold: %+v", v)
	}
	if v := evaluate(t, newStage(t, map[string]string{"url": greylist, "greylist": "ignore"}), transaction(newLetter())); v.Action != mail.Dunno {
		t.Errorf("greylist = ignore: %+v", v)
	}
	l := newLetter("X-Spam: No")
	if evaluate(t, newStage(t, map[string]string{"url": greylist, "greylist": "ignore", "headers": "never"}), transaction(l)); len(l.values("X-Spam")) != 1 {
		t.Errorf("headers = never: %q", l.fields)
	}
	large := newLetter()
	large.body = strings.Repeat("x", 2<<10)
	if v := evaluate(t, newStage(t, map[string]string{"url": reject, "max_message": "1 KiB"}), transaction(large)); v.Action != mail.Dunno || v.Detail == "" {
		t.Errorf("max_message: %+v", v)
	}
}

// A message that cannot be read is our trouble, and nothing is held against
// the server.
func TestUnreadableMessage(t *testing.T) {
	t.Parallel()
	s := newStage(t, map[string]string{"url": answering(t, 200, `{"action":"reject"}`)})
	for range 5 {
		l := newLetter()
		l.read = errors.New("disk gone")
		if v, err := s.Evaluate(context.Background(), transaction(l)); err == nil || status.Of(err).Permanent() {
			t.Errorf("%+v, %v", v, err)
		}
	}
	if n := s.servers[0].breaker.Failures(); n != 0 {
		t.Errorf("%d failures of the server", n)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, args := range []map[string]string{
		{}, {"url": "127.0.0.1:11333"}, {"url": "ftp://x"}, {"url": "unix:x"}, {"url": "http://u:p@x"}, {"url": "http://x", "timeout": "1"},
		{"url": "http://x", "timeout": "-1s"}, {"url": "http://x", "max_message": "big"}, {"url": "http://x", "reject": "no"},
		{"url": "http://x", "headers": "all"}, {"url": "http://x", "greylist": "x"}, {"url": "http://x", "authenticated": "x"}, {"url": "http://x", "colour": "x"},
	} {
		if c, err := Parse(spec(args)); err == nil {
			t.Errorf("%v is taken as %+v", args, c)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(`{"action":"no action","score":1.5,"symbols":{"A":{"score":1,"options":["x"]}},"messages":{"smtp_message":"x"}}`)
	f.Add(`{"action":"rewrite subject","subject":"a\r\nb","milter":{"add_headers":{"X-A":"1\n2","X-B":{"value":"1","order":0},"X-C":["1",{"value":"2","order":-1}]}}}`)
	f.Add(`{"action":"add header","milter":{"remove_headers":{"Subject":0,"X":[1,-1,2]},"spam_header":"X-S"},"dkim-signature":["a","b"]}`)
	f.Add(`{"action":"reject","messages":[],"milter":{"change_from":"<a@b.example>","add_rcpt":"x@y.example","del_rcpt":[1,"x@y.example"]}}`)
	f.Fuzz(func(t *testing.T, data string) {
		a, err := parseAnswer([]byte(data))
		if err != nil {
			return
		}
		l := newLetter("X: 1", "X: 2")
		s := &Stage{cfg: Config{Headers: HeadersAlways}}
		v, err := s.verdict(a, l)
		if err != nil {
			return
		}
		if v.Action == mail.Reject && v.WireReply().Positive() {
			t.Errorf("a refusal says %v", v.WireReply())
		}
		if v.Action == mail.Reject && strings.ContainsAny(v.WireReply().Text, "\r\n\x00") {
			t.Errorf("reply %q", v.WireReply().Text)
		}
		for _, e := range v.Edits {
			if err := l.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
		for i, field := range l.fields {
			lines := strings.Split(string(field), "\r\n")
			for _, line := range lines[1:] {
				if strings.Trim(line, " \t") == "" || line[0] != ' ' && line[0] != '\t' {
					t.Errorf("%q holds another field", field)
				}
			}
			if strings.ContainsAny(strings.Join(lines, ""), "\r\n\x00") || i == 0 && !field.Is("Received") {
				t.Errorf("field %d is %q", i, field)
			}
		}
	})
}

func BenchmarkMessage(b *testing.B) {
	s := newStage(b, map[string]string{"url": answering(b, 200, `{"action":"no action","score":1,"symbols":{"A":{"score":1}}}`)})
	l := newLetter()
	l.body = strings.Repeat("0123456789abcde\n", 4<<10/16)
	tx := transaction(l)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Evaluate(context.Background(), tx); err != nil {
			b.Fatal(err)
		}
	}
}
