package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
)

func open(t *testing.T, file string) *Log {
	t.Helper()
	l, err := Open(Config{File: file}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func verify(t *testing.T, data []byte) Verified {
	t.Helper()
	v, err := Verify(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestChainSurvivesRestartRotationAndManyWriters(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "sub", "audit.log")
	l := open(t, file)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for range 100 {
				l.Record(mail.Event{Kind: mail.EventAccept, Result: "ok", Queue: "4ABC"})
			}
		})
	}
	writers.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	l = open(t, file)
	l.Record(mail.Event{Kind: mail.EventConfig})
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, read(t, file)); v.Lines != 801 || v.LastSeq != 801 || len(v.Breaks) > 0 {
		t.Fatalf("after restart: %+v", v)
	}

	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Record(mail.Event{Kind: mail.EventConfig})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole := append(read(t, file+".1"), read(t, file)...)
	if v := verify(t, whole); v.Lines != 802 || len(v.Breaks) > 0 {
		t.Fatalf("over rotation: %+v", v)
	}
}

func TestVerifyFindsTampering(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, file)
	for _, login := range []string{"alice", "bob", "carol", "dave"} {
		l.Record(mail.Event{Kind: mail.EventAuth, Login: login, Result: "ok"})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(read(t, file)), "\n")
	for name, bad := range map[string]string{
		"changed":   strings.Replace(strings.Join(lines, ""), "bob", "eve", 1),
		"removed":   lines[0] + lines[2] + lines[3],
		"reordered": lines[0] + lines[2] + lines[1] + lines[3],
		"torn":      lines[0] + lines[1][:20] + "\n" + lines[2] + lines[3],
	} {
		if v := verify(t, []byte(bad)); len(v.Breaks) == 0 {
			t.Errorf("%s: not noticed", name)
		}
	}
}

func TestTornLastLineDoesNotSwallowTheNext(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(file, []byte(`{"seq":1,"prev":"","event":"acc`), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, file)
	l.Record(mail.Event{Kind: mail.EventAccept})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(read(t, file), []byte{'\n'}); n != 2 {
		t.Fatalf("%d lines, want the torn one and the new one", n)
	}
}

func TestEventLeavesOutWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	null := mail.Address{}
	data, err := json.Marshal(mail.Event{Kind: mail.EventAccept, From: &null})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"time":"0001-01-01T00:00:00Z","event":"accept","from":""}`
	if string(data) != want {
		t.Errorf("got %s, want %s", data, want)
	}
}
