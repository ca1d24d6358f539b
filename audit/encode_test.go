package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
)

func encode(t *testing.T, e mail.Event) string {
	t.Helper()
	got, err := appendEvent([]byte("{"), &e)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func marshal(t *testing.T, e mail.Event) string {
	t.Helper()
	want, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(want)
}

// full is an event with every field set, so that a new one is missed here.
func full(t testing.TB) mail.Event {
	from := mail.MustAddress("alice@example.com")
	e := mail.Event{
		Time: time.Date(2026, 2, 3, 4, 5, 6, 7_000_000, time.UTC), From: &from, Octets: 1 << 40, Count: 3, Duration: 1234567,
		Remote: netip.MustParseAddrPort("[2001:db8::1]:25"), To: []mail.Address{mail.MustAddress("bob@example.com"), from},
		Steps: []mail.PolicyStep{{List: "client", Stage: "permit", Verdict: "permit"},
			{List: "relay", Stage: "reject", Recipient: "<bob@example.com>", Input: "in", Verdict: "reject", Detail: "why", Cost: 1500}},
	}
	v := reflect.ValueOf(&e).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.String {
			f.SetString(strings.ToLower(v.Type().Field(i).Name))
		}
		if v.Field(i).IsZero() {
			t.Fatalf("the field %s is not set", v.Type().Field(i).Name)
		}
	}
	return e
}

// TestEncodesAsJSON: what is written by hand is what json.Marshal writes, for
// all fields, for none, and for each alone.
func TestEncodesAsJSON(t *testing.T) {
	t.Parallel()
	all := full(t)
	events := []mail.Event{{}, all, {From: &mail.Address{}}, {Remote: netip.MustParseAddrPort("[fe80::1%eth0]:1")},
		{Remote: netip.AddrPortFrom(netip.Addr{}, 7)}, {Octets: -1}, {Time: time.Now()}}
	for i := range reflect.TypeFor[mail.Event]().NumField() {
		var e mail.Event
		reflect.ValueOf(&e).Elem().Field(i).Set(reflect.ValueOf(all).Field(i))
		events = append(events, e)
	}
	for _, e := range events {
		if got, want := encode(t, e), marshal(t, e); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if _, err := appendEvent(nil, &mail.Event{Time: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)}); err == nil {
		t.Error("a year beyond RFC 3339 is written")
	}
}

// FuzzEncodesAsJSON: the same for whatever a client may choose.
func FuzzEncodesAsJSON(f *testing.F) {
	for _, s := range []string{"", "plain", `quo"te\`, "<&>", "line\r\nend", "\x00\x7f", "ü\u2028\u2029", "\xff\xfe", strings.Repeat("x", 300)} {
		f.Add(s, int64(len(s)))
	}
	f.Fuzz(func(t *testing.T, s string, n int64) {
		address := mail.Address{Local: mail.LocalPart(s), Domain: "example.com"}
		e := mail.Event{
			Kind: mail.EventKind(s), Detail: s, Login: s, MessageID: s, From: &address, To: []mail.Address{address, address},
			Octets: n, Count: n, Duration: time.Duration(n), Steps: []mail.PolicyStep{{List: s, Stage: s, Input: s, Cost: time.Duration(n)}},
		}
		if got, want := encode(t, e), marshal(t, e); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// BenchmarkRecord is one event of a message.
func BenchmarkRecord(b *testing.B) {
	l, err := Open(Config{File: filepath.Join(b.TempDir(), "audit.log")}, hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	e := full(b)
	b.ReportAllocs()
	for b.Loop() {
		l.Record(e)
	}
}

// TestLinesAreWrittenSoon: a line is in the file in a moment, not only when the
// disk is asked, and so is one that comes after it.
func TestLinesAreWrittenSoon(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "audit.log")
	l, err := Open(Config{File: file, SyncInterval: time.Hour}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	for n := 1; n <= 3; n++ {
		l.Record(mail.Event{Kind: mail.EventAccept})
		deadline := time.Now().Add(time.Minute)
		for bytes.Count(read(t, file), []byte("\n")) < n {
			if time.Now().After(deadline) {
				t.Fatalf("line %d is not written", n)
			}
			runtime.Gosched()
		}
	}
	cancel()
	if err := errors.Join(<-ended, l.Close()); err != nil {
		t.Error(err)
	}
}
