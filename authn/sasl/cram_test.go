package sasl

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/postern-mail/postern/status"
)

func digest(password, challenge string) string {
	mac := hmac.New(md5.New, []byte(password))
	mac.Write([]byte(challenge))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestCRAMMD5(t *testing.T) {
	t.Parallel()
	people := vault{"alice": "{CLEARTEXT}tanstaaf tanstaaf", "keys": secret(t, "scram-sha-256", "x")}
	tests := []struct {
		login, password string
		want            status.Reason
	}{
		{"alice", "tanstaaf tanstaaf", status.OK},
		{"Alice", "tanstaaf tanstaaf", status.OK},
		{"alice", "wrong", status.AuthFailed},
		{"mallory", "", status.AuthFailed},
		{"keys", "", status.AuthFailed},
		{"down", "x", status.AuthTemporary},
		{"a b", "x", status.AuthFailed},
	}
	seen := map[string]bool{}
	for _, tt := range tests {
		m, audit := offered(t, Config{Mechanisms: []string{CRAMMD5}, Hostname: "mx.example.com"}, people)
		x, err := m.Start(t.Context(), CRAMMD5, "submission", over(nil))
		if err != nil {
			t.Fatal(err)
		}
		challenge, done, err := x.Next(nil)
		if done || err != nil || !strings.HasSuffix(string(challenge), "@mx.example.com>") || seen[string(challenge)] {
			t.Fatalf("challenge %q, %v, %v", challenge, done, err)
		}
		seen[string(challenge)] = true
		_, done, err = x.Next([]byte(tt.login + " " + digest(tt.password, string(challenge))))
		if status.Of(err) != tt.want || done != (tt.want == status.OK) {
			t.Errorf("%s, %q: done %v, %v; want %v", tt.login, tt.password, done, err, tt.want)
		}
		if len(audit.events) != 1 {
			t.Errorf("%s: audit %+v", tt.login, audit.events)
		}
	}
}

func TestCRAMMD5Malformed(t *testing.T) {
	t.Parallel()
	people := vault{"alice": "{CLEARTEXT}x"}
	for _, response := range []string{"", "alice", "alice ", " 00", "alice 00", "alice " + strings.Repeat("zz", 16), "alice " + strings.Repeat("0", 1000)} {
		m, audit := offered(t, Config{Mechanisms: []string{CRAMMD5}}, people)
		x, _ := m.Start(t.Context(), CRAMMD5, "submission", over(nil))
		x.Next(nil)
		if _, done, err := x.Next([]byte(response)); done || status.Of(err) != status.ParameterSyntax || len(audit.events) != 0 {
			t.Errorf("%q: done %v, %v", response, done, err)
		}
	}
	m, _ := offered(t, Config{Mechanisms: []string{CRAMMD5}}, people)
	x, _ := m.Start(t.Context(), CRAMMD5, "submission", over(nil))
	if _, _, err := x.Next([]byte("too early")); status.Of(err) != status.ParameterSyntax {
		t.Errorf("initial response: %v", err)
	}
}

func FuzzCRAM(f *testing.F) {
	f.Add("alice 00112233445566778899aabbccddeeff")
	f.Add("a b  ")
	f.Fuzz(func(t *testing.T, response string) {
		login, sum, ok := parseCRAM(response)
		if ok && (login == "" || !bytes.HasPrefix([]byte(response), []byte(login+" ")) || !strings.EqualFold(response[len(login)+1:], hex.EncodeToString(sum))) {
			t.Errorf("%q reads as %q, %x", response, login, sum)
		}
	})
}
