package authres

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, value string
		want        Field
		err         error
	}{
		// The examples of RFC 8601 appendix B.
		{"B.2 no result", " example.org 1; none", Field{ID: "example.org"}, nil},
		{"B.3", " example.com;\r\n          spf=pass smtp.mailfrom=example.net", Field{"example.com", []Result{
			{"spf", "pass", "", []Property{{"smtp", "mailfrom", "example.net"}}}}}, nil},
		{"B.4", " example.com;\r\n auth=pass (cram-md5) smtp.auth=sender@example.net;\r\n spf=pass smtp.mailfrom=example.net", Field{"example.com", []Result{
			{"auth", "pass", "", []Property{{"smtp", "auth", "sender@example.net"}}},
			{"spf", "pass", "", []Property{{"smtp", "mailfrom", "example.net"}}}}}, nil},
		{"B.6", " example.com;\r\n dkim=pass reason=\"good signature\"\r\n header.i=@mail-router.example.net;\r\n dkim=fail reason=\"bad signature\"\r\n header.i=@newyork.example.com", Field{"example.com", []Result{
			{"dkim", "pass", "good signature", []Property{{"header", "i", "@mail-router.example.net"}}},
			{"dkim", "fail", "bad signature", []Property{{"header", "i", "@newyork.example.com"}}}}}, nil},
		{"B.7, comments everywhere", " foo.example.net (foobar) 1 (baz);\r\n dkim (Because I like it) / 1 (One yay) = (wait for it) fail\r\n policy (A dot can go here) . (like that) expired\r\n (this surprised me) = (as I wasn't expecting it) 1362471462", Field{"foo.example.net", []Result{
			{"dkim", "fail", "", []Property{{"policy", "expired", "1362471462"}}}}}, nil},

		// What others write.
		{"semicolons in quotes and comments", ` mx.example; spf=fail reason="a;b" (c;d (e;f) \) ;g) smtp.mailfrom="x;y"@example.org; dkim=none`, Field{"mx.example", []Result{
			{"spf", "fail", "a;b", []Property{{"smtp", "mailfrom", "x;y@example.org"}}}, {"dkim", "none", "", nil}}}, nil},
		{"unquoted base64 and IPv6", " mx.google.example; dkim=pass header.i=@example.com header.s=s1 header.b=AbC/d+e=; iprev=pass policy.iprev=2001:db8::1", Field{"mx.google.example", []Result{
			{"dkim", "pass", "", []Property{{"header", "i", "@example.com"}, {"header", "s", "s1"}, {"header", "b", "AbC/d+e="}}},
			{"iprev", "pass", "", []Property{{"policy", "iprev", "2001:db8::1"}}}}}, nil},
		{"property without type, final semicolon", " mx.example; compauth=pass reason=100; dmarc=pass action=none header.from=Example.com;", Field{"mx.example", []Result{
			{"compauth", "pass", "100", nil}, {"dmarc", "pass", "", []Property{{"header", "from", "Example.com"}}}}}, nil},
		{"upper case, escapes", ` "mx \"a\".example" ; SPF = Pass SMTP.MailFrom = A.B`, Field{`mx "a".example`, []Result{
			{"spf", "pass", "", []Property{{"smtp", "mailfrom", "A.B"}}}}}, nil},
		{"none after results", " mx.example; none", Field{ID: "mx.example"}, nil},
		{"only an ID", " mx.example", Field{ID: "mx.example"}, nil},

		{"empty", "", Field{}, ErrSyntax},
		{"only a comment", " (mx.example)", Field{}, ErrSyntax},
		{"comment not closed", " mx.example; spf=pass (", Field{}, ErrSyntax},
		{"quote not closed", ` mx.example; spf=pass reason="a`, Field{}, ErrSyntax},
		{"no ID", " spf=pass (sender IP is 192.0.2.1) smtp.mailfrom=example.com; dkim=none", Field{}, ErrSyntax},
		{"no result value", " mx.example; spf=; dkim=pass", Field{}, ErrSyntax},
		{"no method", " mx.example; =pass", Field{}, ErrSyntax},
		{"property without value", " mx.example; spf=pass smtp.mailfrom", Field{}, ErrSyntax},
		{"later version", " mx.example 2; spf=pass", Field{ID: "mx.example"}, ErrVersion},
		{"deep comments", " mx.example; " + strings.Repeat("(", 60) + strings.Repeat(")", 60) + "spf=pass", Field{}, ErrTooBig},
		{"many results", " mx.example" + strings.Repeat("; spf=pass", 101), Field{}, ErrTooBig},
		{"many properties", " mx.example; spf=pass" + strings.Repeat(" a.b=c", 101), Field{}, ErrTooBig},
		{"long", " mx.example; spf=pass (" + strings.Repeat("x", maxField) + ")", Field{}, ErrTooBig},
	} {
		got, err := Parse(row.value)
		if row.err != nil && row.err != ErrVersion {
			row.want, got = Field{}, Field{}
		}
		if !errors.Is(err, row.err) || !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s: %+v, %v; want %+v, %v", row.name, got, err, row.want, row.err)
		}
	}
}

func TestString(t *testing.T) {
	t.Parallel()
	f := Field{"mx.example.com", []Result{
		{"spf", "pass", "", []Property{{"smtp", "mailfrom", "someone@sender.example.org"}, {"smtp", "helo", "mail.sender.example.org"}, {"smtp", "remote-ip", "2001:db8::1"}}},
		{"dkim", "fail", `bad "body" hash` + "\r\nX: y\x00", []Property{{"header", "d", "example.org"}, {"header", "b", "ab/c+d=="}}},
		{"auth", "pass", "", []Property{{"smtp", "auth", "jürgen"}, {"smtp", "mailfrom", "a b@example.org"}}},
	}}
	want := "Authentication-Results: mx.example.com;\r\n" +
		"\tspf=pass smtp.mailfrom=someone@sender.example.org\r\n" +
		"\tsmtp.helo=mail.sender.example.org smtp.remote-ip=\"2001:db8::1\";\r\n" +
		"\tdkim=fail reason=\"bad \\\"body\\\" hash??X: y?\" header.d=example.org\r\n" +
		"\theader.b=\"ab/c+d==\";\r\n" +
		"\tauth=pass smtp.auth=\"j?rgen\" smtp.mailfrom=\"a b@example.org\""
	if got := f.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := f.UTF8(); !strings.Contains(got, `"jürgen"`) {
		t.Errorf("got\n%s", got)
	}
	if got := (Field{ID: "mx.example.com"}).String(); got != "Authentication-Results: mx.example.com; none" {
		t.Errorf("got %q", got)
	}
}

func TestClaims(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{
		" mx.example.com; spf=pass":                           true,
		" MX.Example.COM 1; none":                             true,
		" (a) \"mx.example.com\" (b); spf=pass":               true,
		"\r\n\tmx.example.com\r\n\t; spf=pass":                true,
		" mx.example.com":                                     true,
		" mx.example.com 2; spf=pass":                         true,
		" mx.example.com; )((\"":                              true,
		" (mx.example.com; spf=pass":                          true, // cannot be read
		" \"mx.example.com; spf=pass":                         true,
		" mx.\"example\".com; spf=pass":                       true, // some would read it
		" mx.(x)example.com; spf=pass":                        true,
		" mx.\r\n\texample.com; spf=pass":                     true,
		" mx.example.com\x00; spf=pass":                       true,
		" mx.example\x00.com; spf=pass":                       true,
		" mx.example.com.; spf=pass":                          true,
		" mx.example.com/1; spf=pass":                         true,
		" mx.example.com spf=pass":                            true,
		" mx.example.com(x)1; spf=pass":                       true,
		" i=1; mx.example.com; spf=pass":                      true,
		" ; mx.example.com; spf=pass":                         true,
		" other.example; spf=pass":                            false,
		" other.example 1; dkim=pass header.d=mx.example.com": false,
		" other.mx.example.com; spf=pass":                     false,
		" other.example (mx.example.com); none":               false,
		" (other.example; spf=pass":                           false,
		strings.Repeat(" ", maxField) + "x; y=pass":           false,
	} {
		if got := Claims(value, "mx.example.com"); got != want {
			t.Errorf("%.60q: %v", value, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		" example.com; spf=pass smtp.mailfrom=example.net", ` x (a(b)\)) 1; dkim/1=fail reason="a;\"b" header.i=@c.d; none`, " a; b=c d.e=\"f\"@g",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		field, err := Parse(value)
		if err != nil {
			return
		}
		text := field.UTF8()
		for line := range strings.SplitSeq(text, "\r\n") {
			if len(line) > 2*maxValue+200 || strings.ContainsAny(line, "\r\n\x00") {
				t.Fatalf("line %q", line)
			}
		}
		again, err := Parse(strings.TrimPrefix(text, Name+":"))
		if err != nil || len(again.Results) != len(field.Results) {
			t.Fatalf("%q written as %q is %v", value, text, err)
		}
	})
}
