package srs

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/mail"
)

// newYear is the day the vectors were made on.
var newYear = time.Date(2020, 1, 1, 0, 1, 0, 0, time.UTC)

func rewriter(t testing.TB, change func(*Config)) *Rewriter {
	t.Helper()
	cfg := Config{Domain: "example.com", Keys: [][]byte{[]byte("tops3cr3t")}}
	if change != nil {
		change(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestVectors: what other programs make with the same key on the same day.
func TestVectors(t *testing.T) {
	t.Parallel()
	r := rewriter(t, nil)
	for in, want := range map[string]string{
		"test@otherdomain.com":                                  "SRS0=vmyz=2W=otherdomain.com=test@example.com",
		"sender@otherdomain.com":                                "SRS0=9KJ+=2W=otherdomain.com=sender@example.com",
		"SRS0=opaque+string@otherdomain.com":                    "SRS1=chaI=otherdomain.com==opaque+string@example.com",
		"SRS1=X=thirddomain.com==opaque+string@otherdomain.com": "SRS1=JIBX=thirddomain.com==opaque+string@example.com",
		"test@example.com":                                      "test@example.com",
	} {
		got, err := r.Encode(mail.MustAddress(in), newYear)
		if err != nil || got.String() != want {
			t.Errorf("Encode(%s) = %s, %v; want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"SRS0=XjO9=2V=otherdomain.com=test":        "test@otherdomain.com",
		"SRS0=vmyz=2W=otherdomain.com=test":        "test@otherdomain.com",
		"srs0+VMYZ=2w=OtherDomain.com=test":        "test@otherdomain.com",
		"SRS0=9KJ-=2W=otherdomain.com=sender":      "sender@otherdomain.com",
		"SRS1=JIBX=thirddomain.com==opaque+string": "SRS0=opaque+string@thirddomain.com",
		"SRS1-chaI=otherdomain.com==opaque+string": "SRS0=opaque+string@otherdomain.com",
	} {
		got, err := r.Decode(mail.LocalPart(in), newYear)
		if err != nil || got.String() != want {
			t.Errorf("Decode(%s) = %s, %v; want %s", in, got, err, want)
		}
	}
	if got, err := r.Encode(mail.Address{}, newYear); err != nil || !got.IsNull() {
		t.Errorf("the null reverse-path became %s, %v", got, err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	r := rewriter(t, nil)
	for in, want := range map[string]error{
		"alice":                                    ErrNotSRS,
		"srs":                                      ErrNotSRS,
		"SRS0":                                     ErrNotSRS,
		"SRS2=a=b=c=d":                             ErrNotSRS,
		"SRS0.a=b=c=d":                             ErrNotSRS,
		"SRS0=a":                                   ErrForged,
		"SRS0=vmyz=2W=otherdomain.com":             ErrForged,
		"SRS0=vmyz=2W=otherdomain.com=":            ErrForged,
		"SRS0=vmyy=2W=otherdomain.com=test":        ErrForged,
		"SRS0=vmyz=2V=otherdomain.com=test":        ErrForged,
		"SRS0=vmyz=2W=otherdomain.com=test2":       ErrForged,
		"SRS0=vmy=2W=otherdomain.com=test":         ErrForged, // shorter than we make them
		"SRS0==2W=otherdomain.com=test":            ErrForged,
		"SRS1=JIBX=thirddomain.org==opaque+string": ErrForged,
		"SRS0=\xc3\xc3\xc3\xc3\xc3\xc3\xf4\xf4\xf4\xf4=0=x=y": ErrForged,
		"SRS1=JIBX=thirddomain.com=opaque+string":             ErrForged,
	} {
		if got, err := r.Decode(mail.LocalPart(in), newYear); !errors.Is(err, want) {
			t.Errorf("Decode(%s) = %s, %v; want %v", in, got, err, want)
		}
	}
}

func TestAge(t *testing.T) {
	t.Parallel()
	r := rewriter(t, nil)
	a, err := r.Encode(mail.MustAddress("x@far.example"), newYear)
	if err != nil {
		t.Fatal(err)
	}
	for days, want := range map[int]error{-2: ErrExpired, -1: nil, 0: nil, 1: nil, 21: nil, 22: ErrExpired, 500: ErrExpired, 1022: ErrExpired} {
		if _, err := r.Decode(a.Local, newYear.AddDate(0, 0, days)); !errors.Is(err, want) {
			t.Errorf("after %d days: %v, want %v", days, err, want)
		}
	}
}

func TestKeysRotate(t *testing.T) {
	t.Parallel()
	old := rewriter(t, nil)
	both := rewriter(t, func(c *Config) { c.Keys = [][]byte{[]byte("another key"), []byte("tops3cr3t")} })
	fresh := rewriter(t, func(c *Config) { c.Keys = [][]byte{[]byte("another key")} })
	sender := mail.MustAddress("x@far.example")
	byOld, _ := old.Encode(sender, newYear)
	byBoth, _ := both.Encode(sender, newYear)
	if got, err := both.Decode(byOld.Local, newYear); err != nil || got != sender {
		t.Errorf("an address made with the old key: %v, %v", got, err)
	}
	if got, err := fresh.Decode(byBoth.Local, newYear); err != nil || got != sender {
		t.Errorf("the new key does not sign: %v, %v", got, err)
	}
	if _, err := fresh.Decode(byOld.Local, newYear); !errors.Is(err, ErrForged) {
		t.Errorf("a key that was taken away is still believed: %v", err)
	}
}

// TestLongSenders: the senders of bulk mailers are longer than others, and
// must come through the parser of the wire when they come back.
func TestLongSenders(t *testing.T) {
	t.Parallel()
	r := rewriter(t, nil)
	sender := mail.MustAddress("0100017f3e5d2c1a-1b2c3d4e-5f60-4789-abcd-ef0123456789-000000@eu-west-1.bounces.example.net")
	a, err := r.Encode(sender, newYear)
	if err != nil {
		t.Fatal(err)
	}
	read, rest, err := mail.ParsePath(a.Path(), false)
	if err != nil || rest != "" || read != a {
		t.Fatalf("%s is read as %v, %v", a, read, err)
	}
	if got, err := r.Decode(read.Local, newYear); err != nil || got != sender {
		t.Errorf("%s comes back as %v, %v", a, got, err)
	}
	host := strings.Repeat("a.", 110) + "example"
	if got, err := r.Encode(mail.Address{Local: "local.part.of.some.length", Domain: mail.Domain(host)}, newYear); !errors.Is(err, ErrTooLong) {
		t.Errorf("an address too long for a path: %v, %v", got, err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	key := [][]byte{[]byte("k")}
	for name, cfg := range map[string]Config{
		"no domain":  {Keys: key},
		"literal":    {Domain: "[192.0.2.1]", Keys: key},
		"no key":     {Domain: "x.example"},
		"empty key":  {Domain: "x.example", Keys: [][]byte{nil}},
		"separator":  {Domain: "x.example", Keys: key, Separator: '#'},
		"age":        {Domain: "x.example", Keys: key, MaxAge: time.Hour},
		"long age":   {Domain: "x.example", Keys: key, MaxAge: 1000 * 24 * time.Hour},
		"short hash": {Domain: "x.example", Keys: key, HashOctets: 3},
		"long hash":  {Domain: "x.example", Keys: key, HashOctets: 21},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestReadKeys(t *testing.T) {
	t.Parallel()
	keys, err := ReadKeys("f", strings.NewReader("# new\n0123456789abcdef\n\n  fedcba9876543210  \n"))
	if err != nil || len(keys) != 2 || string(keys[0]) != "0123456789abcdef" || string(keys[1]) != "fedcba9876543210" {
		t.Errorf("%q, %v", keys, err)
	}
	for _, text := range []string{"", "# only\n", "short\n"} {
		if keys, err := ReadKeys("f", strings.NewReader(text)); err == nil || strings.Contains(err.Error(), "short") {
			t.Errorf("ReadKeys(%q) = %q, %v", text, keys, err)
		}
	}
}

// FuzzDecode: what a stranger writes is refused or was signed; what we make of
// any address leads back to it.
func FuzzDecode(f *testing.F) {
	f.Add("SRS0=vmyz=2W=otherdomain.com=test", "a@b.example")
	f.Add("SRS1=JIBX=thirddomain.com==opaque+string", `"a b"@b.example`)
	f.Add("SRS0====", "SRS0=x=y@z.example")
	f.Add("srs1=a=b==c", "SRS1=x=y==z@z.example")
	f.Fuzz(func(t *testing.T, local, sender string) {
		r := rewriter(t, nil)
		if a, err := r.Decode(mail.LocalPart(local), newYear); err == nil {
			if _, err := mail.ParseAddress(a.String()); err != nil {
				t.Fatalf("%q leads to %q: %v", local, a, err)
			}
		}
		from, err := mail.ParseAddress(sender)
		if err != nil || from.Domain == "example.com" || from.Domain.IsLiteral() {
			return
		}
		made, err := r.Encode(from, newYear)
		if err != nil {
			return
		}
		back, err := r.Decode(made.Local, newYear)
		if err != nil {
			t.Fatalf("%q became %q: %v", from, made, err)
		}
		if !IsSRS(from.Local) && back != from {
			t.Fatalf("%q became %q and comes back as %q", from, made, back)
		}
		if IsSRS(from.Local) && !strings.HasPrefix(string(back.Local), "SRS0") {
			t.Fatalf("%q became %q and comes back as %q", from, made, back)
		}
	})
}
