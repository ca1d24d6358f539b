package arc

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

func newKey(t testing.TB) (*dkim.Key, zone) {
	t.Helper()
	private := ed25519.NewKeyFromSeed([]byte(strings.Repeat("postern ", 4)))
	key, err := dkim.NewKey("example.com", "ed", private)
	if err != nil {
		t.Fatal(err)
	}
	public := base64.StdEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
	return key, zone{"ed._domainkey.example.com": "v=DKIM1; k=ed25519; p=" + public}
}

// TestFullChain seals a message until no set has room any more, and changes it
// once on the way.
func TestFullChain(t *testing.T) {
	t.Parallel()
	key, z := newKey(t)
	sealer, err := NewSealer(nil)
	if err != nil {
		t.Fatal(err)
	}
	verifier := NewVerifier(Config{}, z)
	fields, body := []mail.Field{"From: a@example.com", "Subject: s"}, "hello\r\n"
	for i := range MaxSets + 1 {
		chain, err := verifier.Verify(t.Context(), fields, strings.NewReader(body))
		want := Pass
		if i == 0 {
			want = None
		}
		oldest := 0
		if i > 20 {
			oldest = 21
		}
		if err != nil || chain.Result != want || len(chain.Sets) != i || chain.OldestPass != oldest {
			t.Fatalf("%d sets: %s %q, %d sets, oldest %d, %v", i, chain.Result, chain.Reason, len(chain.Sets), chain.OldestPass, err)
		}
		if i == 20 {
			body += "footer of a list\r\n" // which has verified the chain before
		}
		set, err := sealer.Seal(fields, strings.NewReader(body), chain, "mx.example.com; spf=pass", key)
		if i == MaxSets {
			if !errors.Is(err, ErrFull) {
				t.Errorf("set %d: %v", i+1, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		fields = append(set, fields...)
	}
}

func TestOutages(t *testing.T) {
	t.Parallel()
	key, z := newKey(t)
	sealer, _ := NewSealer(nil)
	fields := []mail.Field{"From: a@example.com"}
	set, err := sealer.Seal(fields, strings.NewReader(""), &Chain{Result: None}, "mx.example.com; none", key)
	if err != nil {
		t.Fatal(err)
	}
	fields = append(set, fields...)
	down, err := NewVerifier(Config{}, zone{"ed._domainkey.example.com": "DOWN"}).Verify(t.Context(), fields, strings.NewReader(""))
	if err != nil || down.Result != TempError {
		t.Fatalf("DNS down: %s %q %v", down.Result, down.Reason, err)
	}
	if _, err := sealer.Seal(fields, strings.NewReader(""), down, "x; none", key); !errors.Is(err, ErrUnknown) {
		t.Errorf("a set is added to a chain of unknown state: %v", err)
	}
	disk := errors.New("disk")
	if _, err := NewVerifier(Config{}, z).Verify(t.Context(), fields, iotest.ErrReader(disk)); !errors.Is(err, disk) {
		t.Errorf("disk broken while verifying: %v", err)
	}
	if _, err := sealer.Seal(fields, iotest.ErrReader(disk), &Chain{Result: None}, "x; none", key); !errors.Is(err, disk) {
		t.Errorf("disk broken while sealing: %v", err)
	}
}

// TestManySets sees that a message cannot make us work without bound.
func TestManySets(t *testing.T) {
	t.Parallel()
	var fields []mail.Field
	for i := range 100000 {
		fields = append(fields, mail.Field(fmt.Sprintf("ARC-Seal: i=%d; a=rsa-sha256; cv=pass; d=d%d.example; s=s; b=AAAA", i%50+1, i)))
	}
	got, err := NewVerifier(Config{}, nil).Verify(t.Context(), fields, iotest.ErrReader(errors.New("read")))
	if err != nil || got.Result != Fail || !strings.Contains(got.Reason, "more than 50") {
		t.Errorf("%s %q %v", got.Result, got.Reason, err)
	}
	if _, err := state(got); !errors.Is(err, ErrFull) {
		t.Errorf("sealing it: %v", err)
	}
}

// TestOpenChains: a sealed message to which somebody added a second Subject has a
// chain that holds, and is told from one that nobody added to.
func TestOpenChains(t *testing.T) {
	t.Parallel()
	key, z := newKey(t)
	sealer, err := NewSealer(nil)
	if err != nil {
		t.Fatal(err)
	}
	fields := []mail.Field{"From: a@example.com", "Subject: s"}
	set, err := sealer.Seal(fields, strings.NewReader("hello\r\n"), &Chain{Result: None}, "mx.example.com; dmarc=pass", key)
	if err != nil {
		t.Fatal(err)
	}
	for added, want := range map[mail.Field]bool{"X: y": false, "Subject: buy": true, "from: b@example.com": true} {
		all := append(append([]mail.Field{added}, set...), fields...)
		chain, err := NewVerifier(Config{}, z).Verify(t.Context(), all, strings.NewReader("hello\r\n"))
		if err != nil || chain.Result != Pass || chain.Open != want {
			t.Errorf("%s: %+v, %v", added, chain, err)
		}
	}
}

func TestFinding(t *testing.T) {
	t.Parallel()
	c := &Chain{Result: Pass, OldestPass: 2, Sets: []Set{{Domain: "a.example"}, {Domain: "b.example"}}}
	if f := c.Finding(); f.Method != "arc" || f.Result != "pass" || f.Domain != "b.example" || !slices.Contains(f.Props, mail.Property{Type: "header", Name: "oldest-pass", Value: "2"}) {
		t.Errorf("%+v", f)
	}
}

func TestWhatIsNotSealed(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ARC-Seal", "arc-message-signature", "Authentication-Results"} {
		if _, err := NewSealer([]string{name}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func FuzzSets(f *testing.F) {
	for _, s := range []string{
		"ARC-Seal: i=1; a=rsa-sha256; cv=none; d=e.example; s=s; b=AAAA\nARC-Message-Signature: i=1; a=rsa-sha256; d=e.example; s=s; h=from; bh=AAAA; b=AAAA\nARC-Authentication-Results: i=1; x; none\nFrom: a\n\nbody",
		"ARC-Seal: i=51\n\n",
	} {
		f.Add(s)
	}
	_, z := newKey(f)
	f.Fuzz(func(t *testing.T, message string) {
		fields, body := split(message)
		sets, highest, err := collect(fields)
		if err == nil && (len(sets) != highest || highest < 1 || highest > MaxSets) {
			t.Fatalf("%d sets, highest %d", len(sets), highest)
		}
		for i := range sets {
			if err == nil && sets[i].Instance != i+1 {
				t.Fatalf("set %d has i=%d", i, sets[i].Instance)
			}
		}
		if got, _ := NewVerifier(Config{}, z).Verify(t.Context(), fields, strings.NewReader(body)); got.Result == Pass {
			t.Fatalf("%q passes", message)
		}
	})
}
