package dkim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
)

func TestTagLists(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ text, want string }{
		{"a=1; b=2", "a:1 b:2"},
		{" a = 1 ;\r\n\tb\r\n = \r\n 2 2 ;", "a:1 b:2 2"},
		{"a=;b==c=", "a: b:=c="},
		{"a_1=x", "a_1:x"},
		{"a=caf\xc3\xa9", "a:caf\xc3\xa9"},
		{"", ""},
		{";", "error"},
		{"a=1;;b=2", "error"},
		{"a=1; a=2", "error"},
		{"a", "error"},
		{"=1", "error"},
		{"1a=1", "error"},
		{"a b=1", "error"},
		{"a=\x01", "error"},
		{strings.Repeat("a", 3) + strings.Repeat(";b=1", maxTags+1), "error"},
	} {
		tags, err := ParseTags(row.text)
		var got []string
		for _, tag := range tags.list {
			got = append(got, tag.name+":"+tag.value)
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = "error"
		}
		if text != row.want {
			t.Errorf("%q: %q (%v), want %q", row.text, text, err, row.want)
		}
	}
}

func TestTakingOutAValue(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		" a=1; b=xyz":                        " a=1; b=",
		" bb=1; b = x\r\n y ; c=3":           " bb=1; b =; c=3",
		" b=; bh=b=;":                        " b=; bh=b=;",
		" x=b=1; c=2":                        " x=b=1; c=2",
		"a=1;\r\n\tb=\r\n\tAAA\r\n\tBBB\r\n": "a=1;\r\n\tb=",
	} {
		tags, err := ParseTags(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := tags.Without("b"); got != want {
			t.Errorf("%q without b is %q, want %q", text, got, want)
		}
	}
}

func TestKeyRecords(t *testing.T) {
	t.Parallel()
	rsaRecord, edRecord := recordOf(t, rsaKey()), recordOf(t, edKey())
	_, p, _ := strings.Cut(rsaRecord, "p=")
	for _, row := range []struct{ record, want string }{
		{rsaRecord, "rsa 2048"},
		{edRecord, "ed25519 256"},
		{"p=" + p, "rsa 2048"},
		{"v=DKIM1; p=" + p[:50] + " \r\n\t" + p[50:] + ";;", "rsa 2048"},
		{"v=DKIM1; k=RSA; p=" + strings.TrimRight(p, "="), "rsa 2048"},
		{"k=rsa; v=DKIM1; p=" + p, "version"},
		{"v=DKIM2; p=" + p, "version"},
		{"v=DKIM1", "no p="},
		{"v=DKIM1; p=", "revoked"},
		{"v=DKIM1; p=*", "base64"},
		{"v=DKIM1; p=AAAA", "no RSA key"},
		{"v=DKIM1; k=ed25519; p=" + p, "no Ed25519 key"},
		{"v=DKIM1; k=falcon; p=" + p, "unknown type"},
		{"v=spf1 -all", "version"},
		{strings.Repeat(" ", maxRecordOctets) + rsaRecord, "too long"},
	} {
		key, err := ParseKey(row.record)
		var got string
		if err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprintf("%s %d", key.Type, key.Bits)
		}
		if !strings.Contains(got, row.want) {
			t.Errorf("%q: %q, want %q", shorten(row.record), got, row.want)
		}
	}
	key, err := ParseKey(rsaRecord)
	if err != nil || !key.Equal(rsaKey().Public()) || key.Equal(edKey().Public()) {
		t.Errorf("a key is not equal to itself, or to another (%v)", err)
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"0": 0, "12": 12, "99999999999999999999999": math.MaxInt64} {
		if got, err := parseNumber(text); got != want || err != nil {
			t.Errorf("%q: %d %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "+1", "1 2", "x", strings.Repeat("9", 77)} {
		if got, err := parseNumber(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

// counting notes how often it is asked.
type counting struct {
	zone
	mu    sync.Mutex
	asked int
}

func (c *counting) TXT(ctx context.Context, name string) (dns.Answer[string], error) {
	c.mu.Lock()
	c.asked++
	c.mu.Unlock()
	return c.zone.TXT(ctx, name)
}

// TestManySignatures sees that a message cannot make us work without bound.
func TestManySignatures(t *testing.T) {
	t.Parallel()
	fields, body := readMessage(t, "testdata/rfc6376.eml")
	for _, row := range []struct {
		selectors bool
		asked     int
	}{{false, 1}, {true, 3}} {
		var all []mail.Field
		for i := range 1000 {
			f := string(fields[0])
			if row.selectors {
				f = strings.Replace(f, "s=brisbane", fmt.Sprintf("s=s%d", i), 1)
			}
			all = append(all, mail.Field(f))
		}
		resolver := &counting{zone: rfcZone}
		got, err := NewVerifier(Config{MaxSignatures: 3}, resolver).Verify(t.Context(), append(all, fields[1:]...), strings.NewReader(body))
		if err != nil || len(got) != 3+maxReported || resolver.asked != row.asked {
			t.Errorf("%d verifications, %d questions, %v", len(got), resolver.asked, err)
		}
		if last := got[len(got)-1]; last.Result != PermError || !strings.Contains(last.Reason, "too many") {
			t.Errorf("the last: %s %q", last.Result, last.Reason)
		}
		if first := got[0].Result; (first == Pass) == row.selectors {
			t.Errorf("the first: %s", first)
		}
	}
}

func TestBodyThatCannotBeRead(t *testing.T) {
	t.Parallel()
	fields, _ := readMessage(t, "testdata/rfc6376.eml")
	disk := errors.New("disk")
	if got, err := NewVerifier(Config{}, rfcZone).Verify(t.Context(), fields, iotest.ErrReader(disk)); !errors.Is(err, disk) || got != nil {
		t.Errorf("%v %v", got, err)
	}
	// Nothing is read where no signature is worth it.
	if got, err := NewVerifier(Config{}, zone{}).Verify(t.Context(), fields, iotest.ErrReader(disk)); err != nil || got[0].Result != PermError {
		t.Errorf("%v %v", got, err)
	}
}

func TestFinding(t *testing.T) {
	t.Parallel()
	fields, body := readMessage(t, "testdata/rfc6376.eml")
	got := verify(t, Config{}, rfcZone, fields, body)[0].Finding()
	text := got.Method + "=" + got.Result + " " + got.Domain
	for _, p := range got.Props {
		text += " " + p.Type + "." + p.Name + "=" + p.Value
	}
	const want = "dkim=pass example.com header.d=example.com header.s=brisbane header.i=joe@football.example.com header.a=rsa-sha256 header.b=AuUoFEfD"
	if text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func TestBest(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		all  []Result
		want Result
	}{
		{nil, None}, {[]Result{Fail, Pass}, Pass}, {[]Result{Fail, TempError}, TempError}, {[]Result{Neutral, PermError}, PermError},
	} {
		var all []Verification
		for _, r := range row.all {
			all = append(all, Verification{Result: r})
		}
		if got := Best(all); got != row.want {
			t.Errorf("%v: %s, want %s", row.all, got, row.want)
		}
	}
}

func FuzzTags(f *testing.F) {
	f.Add(" a = 1 ;\r\n\tb\r\n = \r\n 2 2 ;")
	f.Fuzz(func(t *testing.T, text string) {
		tags, err := ParseTags(text)
		if err != nil {
			return
		}
		for _, tag := range tags.list {
			without, err := ParseTags(tags.Without(tag.name))
			if err != nil {
				t.Fatalf("%q without %s: %v", text, tag.name, err)
			}
			if value, ok := without.Get(tag.name); !ok || value != "" {
				t.Fatalf("%q without %s still has %q", text, tag.name, value)
			}
		}
	})
}

func FuzzSignature(f *testing.F) {
	fields, _ := readMessage(f, "testdata/rfc8463.eml")
	f.Add(fields[0].Value())
	f.Add(fields[1].Value())
	f.Fuzz(func(t *testing.T, value string) {
		s, err := ParseSignature(value)
		if s == nil {
			t.Fatal("no signature")
		}
		if err == nil && (!s.Covers("from") || !IsWithin(s.identityDomain(), s.Domain) || len(s.Headers) > maxNames) {
			t.Errorf("%q is accepted: %+v", value, s)
		}
		_ = (&Verification{Signature: s}).Finding()
	})
}

func FuzzKey(f *testing.F) {
	f.Add(rfcKey)
	f.Add(rfcZone["brisbane._domainkey.football.example.com"][0])
	f.Fuzz(func(t *testing.T, record string) {
		key, err := ParseKey(record)
		if err == nil {
			key.Verify([32]byte{}, []byte(record))
		}
	})
}
