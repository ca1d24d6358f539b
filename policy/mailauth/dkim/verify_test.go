package dkim

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
)

func verify(t *testing.T, cfg Config, z zone, fields []mail.Field, body string) []Verification {
	t.Helper()
	all, err := NewVerifier(cfg, z).Verify(context.Background(), fields, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestExamplesOfTheRFCs(t *testing.T) {
	t.Parallel()
	for file, signatures := range map[string]int{"testdata/rfc6376.eml": 1, "testdata/rfc8463.eml": 2} {
		fields, body := readMessage(t, file)
		all := verify(t, Config{}, rfcZone, fields, body)
		if len(all) != signatures {
			t.Fatalf("%s: %d verifications, want %d", file, len(all), signatures)
		}
		for _, v := range all {
			if v.Result != Pass || v.Reason != "" || !v.HeaderIntact || !v.BodyIntact {
				t.Errorf("%s: %s with %s: %s %q", file, v.Signature.Algorithm, v.Signature.Selector, v.Result, v.Reason)
			}
		}
	}
}

// TestVerify changes one thing of a message signed with both kinds of keys, or
// of what the DNS says, and sees what comes of it.
func TestVerify(t *testing.T) {
	t.Parallel()
	const rsaName, edName = "rsa._domainkey.example.com", "ed._domainkey.example.com"
	z := zone{rsaName: {recordOf(t, rsaKey())}, edName: {recordOf(t, edKey())}}
	record := z[rsaName][0]
	header := "From: Ann <ann@example.com>\r\nTo: bob@example.net\r\nSubject:  a  b \r\nDate: Fri, 11 Jul 2003 21:00:37 -0700\r\n\r\n"
	body := "one\t two \r\n\r\nthree\r\n\r\n\r\n"
	fields, _ := split(header)
	made, err := newSigner(t, Options{}).Sign(fields, strings.NewReader(body), "ann@mail.EXAMPLE.com",
		newKey(t, "example.com", "rsa", rsaKey()), newKey(t, "example.com", "ed", edKey()))
	if err != nil {
		t.Fatal(err)
	}
	signed := append(made, fields...)
	same := func(f []mail.Field) []mail.Field { return f }
	sameBody := func(b string) string { return b }
	edit := func(index int, old, new string) func([]mail.Field) []mail.Field {
		return func(f []mail.Field) []mail.Field {
			if !strings.Contains(string(f[index]), old) {
				t.Errorf("field %q has no %q", f[index], old)
			}
			f[index] = mail.Field(strings.Replace(string(f[index]), old, new, 1))
			return f
		}
	}
	add := func(field string) func([]mail.Field) []mail.Field {
		return func(f []mail.Field) []mail.Field { return append([]mail.Field{mail.Field(field)}, f...) }
	}
	for _, row := range []struct {
		name   string
		cfg    Config
		zone   zone
		fields func([]mail.Field) []mail.Field
		body   func(string) string
		rsa    Result
		ed     Result
		reason string // of the first signature
	}{
		{"untouched", Config{}, z, same, sameBody, Pass, Pass, ""},
		{"white space on the way", Config{}, z, edit(4, "  a  b ", "\r\n a\t b"), func(b string) string {
			return strings.ReplaceAll(b, "\t ", "   ") + "\r\n"
		}, Pass, Pass, ""},
		{"names in other case", Config{}, z, edit(2, "From", "FROM"), sameBody, Pass, Pass, ""},
		{"subject changed", Config{}, z, edit(4, "a", "x"), sameBody, Fail, Fail, "does not fit the header"},
		{"field added that is oversigned", Config{}, z, add("Subject: other"), sameBody, Fail, Fail, "does not fit the header"},
		{"field added that is not there", Config{}, z, add("Reply-To: eve@example.org"), sameBody, Fail, Fail, "does not fit the header"},
		{"field added that is not signed", Config{}, z, add("X-Spam: no"), sameBody, Pass, Pass, ""},
		{"field removed", Config{}, z, func(f []mail.Field) []mail.Field { return f[:5] }, sameBody, Fail, Fail, "does not fit the header"},
		{"body changed", Config{}, z, same, func(b string) string { return b + "x\r\n" }, Fail, Fail, "body was changed"},
		{"both changed, looked at", Config{Thorough: true}, z, edit(4, "a", "x"), sameBody, Fail, Fail, "does not fit the header"},
		{"no key", Config{}, zone{edName: z[edName]}, same, sameBody, PermError, Pass, "no key in the DNS"},
		{"key revoked", Config{}, z.with(rsaName, "v=DKIM1; p="), same, sameBody, PermError, Pass, "revoked"},
		{"key of another", Config{}, z.with(rsaName, rfcKey), same, sameBody, Fail, Pass, "does not fit the header"},
		{"several keys, one fits", Config{}, z.with(rsaName, rfcKey, "junk", record), same, sameBody, Pass, Pass, ""},
		{"several keys, the fitting too late", Config{}, z.with(rsaName, rfcKey, rfcKey, rfcKey, rfcKey, record), same, sameBody, Fail, Pass, ""},
		{"DNS down", Config{}, z.with(rsaName, "DOWN"), same, sameBody, TempError, Pass, "cannot be looked up"},
		{"key for other hash", Config{}, z.with(rsaName, record+"; h=sha1"), same, sameBody, PermError, Pass, "SHA-256"},
		{"key for a list of hashes", Config{}, z.with(rsaName, record+"; h = sha1 : sha256 "), same, sameBody, Pass, Pass, ""},
		{"key for other service", Config{}, z.with(rsaName, record+"; s=voip"), same, sameBody, PermError, Pass, "not for mail"},
		{"key for mail", Config{}, z.with(rsaName, record+"; s=voip:email"), same, sameBody, Pass, Pass, ""},
		{"key of other type", Config{}, z.with(rsaName, z[edName]...), same, sameBody, PermError, Pass, "algorithm"},
		{"key forbids subdomains", Config{}, z.with(rsaName, record+"; t=s"), same, sameBody, PermError, Pass, "exactly its domain"},
		{"key in test", Config{}, z.with(rsaName, record+"; t=y"), same, sameBody, Pass, Pass, ""},
		{"key in test, body changed", Config{}, z.with(rsaName, record+"; t=x:y"), same, func(string) string { return "" }, Neutral, Fail, "only tests"},
		{"key too short for us", Config{MinRSABits: 3072}, z, same, sameBody, Policy, Pass, "2048-bit key is too short"},
		{"key with other tags", Config{}, z.with(rsaName, strings.Replace(record, "k=rsa;", "k=rsa; xx=y;; n=hello there;", 1)), same, sameBody, Pass, Pass, ""},
		{"not version 1", Config{}, z, edit(0, "v=1", "v=2"), sameBody, Neutral, Pass, "version"},
		{"no version", Config{}, z, edit(0, "v=1;", ""), sameBody, PermError, Pass, "no v="},
		{"rsa-sha1", Config{}, z, edit(0, "rsa-sha256", "rsa-sha1"), sameBody, PermError, Pass, "rsa-sha1"},
		{"unknown algorithm", Config{}, z, edit(0, "rsa-sha256", "rsa-md5"), sameBody, Neutral, Pass, "unknown"},
		{"identity of another domain", Config{}, z, edit(0, "mail.EXAMPLE.com", "example.org"), sameBody, PermError, Pass, "not within"},
		{"identity that ends alike", Config{}, z, edit(0, "mail.EXAMPLE.com", "badexample.com"), sameBody, PermError, Pass, "not within"},
		{"From not signed", Config{}, z, edit(0, "h=from:from:", "h=xrom:xrom:"), sameBody, PermError, Pass, "does not cover From"},
		{"tag twice", Config{}, z, edit(0, "v=1;", "v=1; v=1;"), sameBody, Neutral, Pass, "twice"},
		{"unknown tag", Config{}, z, edit(0, "v=1;", "v=1; zz=1;"), sameBody, Fail, Pass, ""},
		{"not base64", Config{}, z, edit(0, "\r\n\tb=", "\r\n\tb=*"), sameBody, Neutral, Pass, "base64"},
		{"other query method", Config{}, z, edit(0, "v=1;", "v=1; q=http/get;"), sameBody, PermError, Pass, "method"},
		{"no domain", Config{}, z, edit(0, "d=example.com", "d=-@com"), sameBody, Neutral, Pass, "no name"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			got := verify(t, row.cfg, row.zone, row.fields(append([]mail.Field{}, signed...)), row.body(body))
			if len(got) != 2 {
				t.Fatalf("%d verifications", len(got))
			}
			if got[0].Result != row.rsa || got[1].Result != row.ed {
				t.Errorf("got %s %q and %s %q, want %s and %s", got[0].Result, got[0].Reason, got[1].Result, got[1].Reason, row.rsa, row.ed)
			}
			if !strings.Contains(got[0].Reason, row.reason) {
				t.Errorf("reason %q, want %q", got[0].Reason, row.reason)
			}
		})
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		z := zone{"ed._domainkey.example.com": {recordOf(t, edKey())}}
		fields, body := split("From: a@example.com\r\n\r\nhello\r\n")
		made, err := newSigner(t, Options{Validity: time.Hour}).Sign(fields, strings.NewReader(body), "", newKey(t, "example.com", "ed", edKey()))
		if err != nil {
			t.Fatal(err)
		}
		fields = append(made, fields...)
		for _, want := range []Result{Pass, Policy} {
			if got := verify(t, Config{}, z, fields, body); got[0].Result != want {
				t.Errorf("%s %q, want %s", got[0].Result, got[0].Reason, want)
			}
			time.Sleep(time.Hour + time.Second)
		}
	})
}

// signBy signs with tags of the test's choice, as others may.
func signBy(t *testing.T, fields []mail.Field, body, tags string, limit int64) mail.Field {
	t.Helper()
	hasher := &BodyHasher{}
	hasher.Want(Relaxed, limit)
	_, _ = hasher.Write([]byte(body))
	hasher.Close()
	sum := hasher.Sum(0)
	draft := mail.Field("DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.com; s=ed; " + tags + " bh=" + base64Of(sum[:]) + "; b=")
	s, err := ParseSignature(draft.Value() + "AAAA")
	if err != nil {
		t.Fatal(err)
	}
	all := append([]mail.Field{draft}, fields...)
	tagList, err := ParseTags(draft.Value())
	if err != nil {
		t.Fatal(err)
	}
	value, err := newKey(t, "example.com", "ed", edKey()).Sign(s.HeaderDigest(NewHeader(all), 0, tagList))
	if err != nil {
		t.Fatal(err)
	}
	return draft + mail.Field(value)
}

func TestPartialBodies(t *testing.T) {
	t.Parallel()
	z := zone{"ed._domainkey.example.com": {recordOf(t, edKey())}}
	fields, _ := split("From: a@example.com\r\n\r\n")
	for _, row := range []struct {
		body     string
		limit    string
		octets   int64
		cfg      Config
		want     Result
		unsigned int64
	}{
		{"hello\r\n", "7", 7, Config{}, Pass, 0},
		{"hello\r\nbuy\r\n", "7", 7, Config{}, Pass, 5},
		{"hello\r\nbuy\r\n", "7", 7, Config{RefusePartial: true}, Policy, 5},
		{"hello\r\n", "7", 7, Config{RefusePartial: true}, Pass, 0},
		{"hello\r\n", "8", 8, Config{}, Fail, 0},
		{"hello\r\n", "0", 0, Config{}, Pass, 7},
	} {
		signature := signBy(t, fields, row.body, "h=from; l="+row.limit+";", row.octets)
		got := verify(t, row.cfg, z, append([]mail.Field{signature}, fields...), row.body)[0]
		if got.Result != row.want || got.UnsignedOctets != row.unsigned {
			t.Errorf("%q with l=%s: %s %q, %d octets unsigned", row.body, row.limit, got.Result, got.Reason, got.UnsignedOctets)
		}
	}
}

// TestSecondFields sees that a field that stands there twice but is signed
// once is not taken as signed: people may be shown the other one.
func TestSecondFields(t *testing.T) {
	t.Parallel()
	z := zone{"ed._domainkey.example.com": {recordOf(t, edKey())}}
	fields, _ := split("From: a@example.com\r\nSubject: s\r\nX-Any: x\r\n\r\n")
	signature := signBy(t, fields, "", "h=From:Subject:X-Any;", WholeBody)
	for added, want := range map[string]Result{
		"From: eve@example.org": Policy, "SUBJECT: x": Policy, "X-Any: y": Pass, "Cc: c@example.org": Pass,
	} {
		got := verify(t, Config{}, z, append([]mail.Field{mail.Field(added), signature}, fields...), "")[0]
		if got.Result != want {
			t.Errorf("with %q: %s %q, want %s", added, got.Result, got.Reason, want)
		}
	}
}

// TestSignaturesThatNameOthers sees that a signature does not cover itself,
// whatever h= says.
func TestSignaturesThatNameOthers(t *testing.T) {
	t.Parallel()
	z := zone{"ed._domainkey.example.com": {recordOf(t, edKey())}}
	fields, _ := split("From: a@example.com\r\n\r\n")
	first := signBy(t, fields, "", "h=from;", WholeBody)
	below := append([]mail.Field{first}, fields...)
	second := signBy(t, below, "", "h=from:dkim-signature:dkim-signature;", WholeBody)
	for _, v := range verify(t, Config{}, z, append([]mail.Field{second}, below...), "") {
		if v.Result != Pass {
			t.Errorf("field %d: %s %q", v.Field, v.Result, v.Reason)
		}
	}
}
