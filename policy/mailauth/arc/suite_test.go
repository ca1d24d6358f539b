package arc

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// suite is one document of the ValiMail suite.
type suite struct {
	Description string            `yaml:"description"`
	Tests       cases             `yaml:"tests"`
	Records     map[string]string `yaml:"txt-records"`
	Domain      string            `yaml:"domain"`
	Selector    string            `yaml:"sel"`
	Key         string            `yaml:"privatekey"`
}

// cases are the cases of a document; some names stand there twice.
type cases []namedCase

type namedCase struct {
	name string
	testCase
}

// UnmarshalYAML reads them in their order.
func (c *cases) UnmarshalYAML(node *yaml.Node) error {
	for i := 0; i+1 < len(node.Content); i += 2 {
		one := namedCase{name: node.Content[i].Value}
		if err := node.Content[i+1].Decode(&one.testCase); err != nil {
			return err
		}
		*c = append(*c, one)
	}
	return nil
}

type testCase struct {
	Message string `yaml:"message"`
	CV      string `yaml:"cv"`
	Time    int64  `yaml:"t"`
	Headers string `yaml:"sig-headers"`
	Server  string `yaml:"srv-id"`
	AS      string `yaml:"AS"`
	AMS     string `yaml:"AMS"`
	AAR     string `yaml:"AAR"`
}

func readSuites(t *testing.T, name string) []suite {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var all []suite
	for decoder := yaml.NewDecoder(file); ; {
		var s suite
		if err := decoder.Decode(&s); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
}

// zone is a DNS in memory.
type zone map[string]string

var errDown = errors.New("server failure")

func (z zone) TXT(_ context.Context, name string) (dns.Answer[string], error) {
	text, ok := z[name]
	switch {
	case !ok:
		return dns.Answer[string]{Outcome: dns.NXDomain}, nil
	case text == "DOWN":
		return dns.Answer[string]{}, errDown
	}
	return dns.Answer[string]{Records: []string{strings.ReplaceAll(text, "\n", "")}}, nil
}

// split cuts a message into fields and body with CRLF line ends.
func split(message string) (fields []mail.Field, body string) {
	message = strings.ReplaceAll(message, "\n", "\r\n")
	header, body, _ := strings.Cut(message, "\r\n\r\n")
	if strings.HasPrefix(message, "\r\n") {
		header, body = "", message[2:]
	}
	for line := range strings.SplitSeq(header, "\r\n") {
		if len(fields) > 0 && line != "" && (line[0] == ' ' || line[0] == '\t') {
			fields[len(fields)-1] += mail.Field("\r\n" + line)
		} else if line != "" {
			fields = append(fields, mail.Field(line))
		}
	}
	return fields, body
}

func TestValidationSuite(t *testing.T) {
	t.Parallel()
	count := 0
	for _, s := range readSuites(t, "testdata/arc-draft-validation-tests.yml") {
		for _, c := range s.Tests {
			count++
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				want := Result(strings.ToLower(strings.TrimSpace(c.CV)))
				if want == "" {
					// The suite leaves open what becomes of a chain whose
					// newest seal says that it failed; RFC 8617 section 5.2
					// step 2 does not.
					want = Fail
				}
				fields, body := split(c.Message)
				got, err := NewVerifier(Config{}, zone(s.Records)).Verify(t.Context(), fields, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				if got.Result != want {
					t.Errorf("%s: %s %q, want %s", s.Description, got.Result, got.Reason, want)
				}
			})
		}
	}
	if count != 175 {
		t.Errorf("%d cases were found, not 175", count)
	}
}

// TestSigningSuite compares what we add with the suite octet for octet, but for
// the white space that the relaxed form ignores.
func TestSigningSuite(t *testing.T) {
	t.Parallel()
	count := 0
	for _, s := range readSuites(t, "testdata/arc-draft-sign-tests.yml") {
		block, _ := pem.Decode([]byte(s.Key))
		private, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		key, err := dkim.NewKey(s.Domain, s.Selector, private)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range s.Tests {
			count++
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				checkSealing(t, s, c.testCase, key)
			})
		}
	}
	if count != 17 {
		t.Errorf("%d cases were found, not 17", count)
	}
}

func checkSealing(t *testing.T, s suite, c testCase, key *dkim.Key) {
	fields, body := split(c.Message)
	chain, err := NewVerifier(Config{}, zone(s.Records)).Verify(t.Context(), fields, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := NewSealer(strings.Split(c.Headers, ":"))
	if err != nil {
		t.Fatal(err)
	}
	sealer.width = 1000 // the suite sealed what was not folded yet
	got, err := sealer.seal(fields, strings.NewReader(body), chain, ours(fields, c.Server), key, time.Unix(c.Time, 0))
	if strings.TrimSpace(c.AS) == "" {
		if !errors.Is(err, ErrBroken) {
			t.Errorf("a set is added to a broken chain: %v %v", got, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{c.AS, c.AMS, c.AAR} {
		if got, want := words(got[i].Value()), words(want); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	again, err := NewVerifier(Config{}, zone(s.Records)).Verify(t.Context(), append(got, fields...), strings.NewReader(body))
	if err != nil || (again.Result == Pass) != (chain.Result != Fail) || len(again.Sets) != len(chain.Sets)+1 {
		t.Errorf("with our set: %s %q (%v)", again.Result, again.Reason, err)
	}
}

// ours joins the results of one server; where they come from is not this
// package's to know, but the suite's.
func ours(fields []mail.Field, server string) string {
	out := server
	for _, f := range fields {
		if name, results, _ := strings.Cut(f.Value(), ";"); f.Is("Authentication-Results") && strings.TrimSpace(name) == server {
			out += ";" + strings.TrimRight(results, " \r\n")
		}
	}
	return out
}

// words removes white space within base64 and makes one space of other runs.
func words(text string) string {
	parts := strings.Split(text, ";")
	for i, part := range parts {
		parts[i] = strings.Join(strings.Fields(part), " ")
		if name, value, _ := strings.Cut(parts[i], "="); name == "b" {
			parts[i] = "b=" + strings.ReplaceAll(value, " ", "")
		}
	}
	return strings.Join(parts, "; ")
}
