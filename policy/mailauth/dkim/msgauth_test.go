package dkim

import (
	"bytes"
	"crypto"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	peer "github.com/emersion/go-msgauth/dkim"

	"github.com/postern-mail/postern/internal/testenv"
)

// randomMessage returns a message with a header and a body that are hard on
// canonicalizations.
func randomMessage(r *rand.Rand) (header, body string) {
	pieces := []string{"a", "word", " ", "  ", "\t", "=", ";", ":", "caf\xc3\xa9", "\r\n ", "\r\n\t"}
	text := func(n int, from []string) string {
		var b strings.Builder
		for range r.IntN(n) {
			b.WriteString(from[r.IntN(len(from))])
		}
		return b.String()
	}
	header = "From: a@example.com\r\n"
	for i := range r.IntN(6) {
		header += []string{"Subject", "TO", "X-Any", "Received"}[r.IntN(4)] + ":" + text(12, pieces) + fmt.Sprint(i) + "\r\n"
	}
	lines := []string{"a", "word", " ", "  ", "\t", "\r\n", "\r\n\r\n", " \r\n", "."}
	return header, text(40, lines) + "\r\n"
}

// TestAgainstGoMsgauth signs with one and verifies with the other, both ways.
func TestAgainstGoMsgauth(t *testing.T) {
	t.Parallel()
	const name = "s._domainkey.example.com"
	seed := testenv.Seed(t)
	r := rand.New(rand.NewPCG(seed, 1))
	for round := range 120 {
		private := []crypto.Signer{rsaKey(), edKey()}[round%2]
		z := zone{name: {recordOf(t, private)}}
		opts := Options{SimpleHeader: round&2 != 0, SimpleBody: round&4 != 0, Headers: []string{"from", "subject", "to", "x-any"}, Oversigned: []string{"from", "subject"}}
		header, body := randomMessage(r)
		fields, _ := split(header + "\r\n")
		made, err := newSigner(t, opts).Sign(fields, strings.NewReader(body), "", newKey(t, "example.com", "s", private))
		if err != nil {
			t.Fatal(err)
		}
		message := string(made[0]) + "\r\n" + header + "\r\n" + body
		theirs, err := peer.VerifyWithOptions(strings.NewReader(message), &peer.VerifyOptions{LookupTXT: func(string) ([]string, error) { return z[name], nil }})
		if err != nil || len(theirs) != 1 || theirs[0].Err != nil {
			t.Fatalf("go-msgauth on what we signed: %v %v\n%q", err, theirs[0].Err, message)
		}
		canon := map[bool]peer.Canonicalization{true: peer.CanonicalizationSimple, false: peer.CanonicalizationRelaxed}
		var signed bytes.Buffer
		if err := peer.Sign(&signed, strings.NewReader(header+"\r\n"+body), &peer.SignOptions{
			Domain: "example.com", Selector: "s", Signer: private, HeaderKeys: []string{"From", "Subject", "Subject", "To"},
			HeaderCanonicalization: canon[opts.SimpleHeader], BodyCanonicalization: canon[opts.SimpleBody],
		}); err != nil {
			t.Fatal(err)
		}
		fields, body = split(signed.String())
		ours := verify(t, Config{}, z, fields, body)
		// A second field that is not signed is Policy to us; go-msgauth does not
		// look for it.
		want := Pass
		if ours[0].Signature.UncoveredTwin(NewHeader(fields)) != "" {
			want = Policy
		}
		if len(ours) != 1 || ours[0].Result != want {
			t.Fatalf("we on what go-msgauth signed: %s %q\n%q", ours[0].Result, ours[0].Reason, signed.String())
		}
		damaged := strings.Replace(signed.String(), "From: a@", "From: b@", 1)
		fields, body = split(damaged)
		if got := verify(t, Config{}, z, fields, body)[0]; got.Result != Fail {
			t.Fatalf("we on what was changed: %s", got.Result)
		}
	}
}
