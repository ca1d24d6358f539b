package spf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/postern-mail/postern/internal/dns"
)

// scenario is one document of the openspf suite.
type scenario struct {
	Description string                 `yaml:"description"`
	Tests       map[string]testCase    `yaml:"tests"`
	Zone        map[string][]yaml.Node `yaml:"zonedata"`
}

type testCase struct {
	Spec        string    `yaml:"spec"`
	Helo        string    `yaml:"helo"`
	Host        string    `yaml:"host"`
	MailFrom    string    `yaml:"mailfrom"`
	Result      yaml.Node `yaml:"result"`
	Explanation string    `yaml:"explanation"`
}

// zone answers from the data of a scenario.
type zone map[string]*node

type node struct {
	txt     []string
	noTXT   bool // "TXT: NONE": SPF records are not copied
	a, aaaa []netip.Addr
	mx      []dns.MX
	ptr     []string
	cname   string
	timeout bool // of every type that has no records
}

func (s scenario) zone(t *testing.T) zone {
	t.Helper()
	z := zone{}
	for name, records := range s.Zone {
		n := &node{}
		z[strings.ToLower(strings.TrimSuffix(name, "."))] = n
		var spf []string
		for _, r := range records {
			if r.Kind == yaml.ScalarNode && r.Value == "TIMEOUT" {
				n.timeout = true
				continue
			}
			var one map[string]yaml.Node
			if err := r.Decode(&one); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for kind, value := range one {
				if kind == "SPF" {
					spf = append(spf, text(t, value))
				} else {
					n.add(t, kind, value)
				}
			}
		}
		// The suite's own rule: records of type SPF stand in TXT too, unless
		// the name has TXT records.
		if len(n.txt) == 0 && !n.noTXT {
			n.txt = spf
		}
	}
	return z
}

func (n *node) add(t *testing.T, kind string, value yaml.Node) {
	t.Helper()
	switch kind {
	case "TXT":
		if value.Value == "NONE" {
			n.noTXT = true
			return
		}
		n.txt = append(n.txt, text(t, value))
	case "A":
		n.a = append(n.a, netip.MustParseAddr(value.Value))
	case "AAAA":
		n.aaaa = append(n.aaaa, netip.MustParseAddr(value.Value))
	case "MX":
		var pair []yaml.Node
		var mx dns.MX
		if err := errors.Join(value.Decode(&pair), pair[0].Decode(&mx.Preference)); err != nil {
			t.Fatal(err)
		}
		mx.Host = strings.TrimSuffix(pair[1].Value, ".")
		n.mx = append(n.mx, mx)
	case "PTR":
		n.ptr = append(n.ptr, strings.TrimSuffix(value.Value, "."))
	case "CNAME":
		n.cname = strings.TrimSuffix(value.Value, ".")
	default:
		t.Fatalf("records of type %s", kind)
	}
}

// text joins the strings of a TXT record; the octets of the suite are written
// as code points.
func text(t *testing.T, value yaml.Node) string {
	t.Helper()
	joined := value.Value
	if value.Kind == yaml.SequenceNode {
		var parts []string
		if err := value.Decode(&parts); err != nil {
			t.Fatal(err)
		}
		joined = strings.Join(parts, "")
	}
	return joined
}

func lookup[T any](z zone, name string, pick func(*node) []T) (dns.Answer[T], error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for range 8 {
		n := z[name]
		if n == nil {
			return dns.Answer[T]{Outcome: dns.NXDomain}, nil
		}
		if records := pick(n); len(records) > 0 {
			return dns.Answer[T]{Outcome: dns.Found, Records: records}, nil
		}
		switch {
		case n.timeout:
			return dns.Answer[T]{}, &dns.Error{Name: name, Err: dns.ErrNoAnswer}
		case n.cname == "":
			return dns.Answer[T]{Outcome: dns.NoData}, nil
		}
		name = strings.ToLower(n.cname)
	}
	return dns.Answer[T]{}, &dns.Error{Name: name, Err: dns.ErrAliasLoop}
}

func (z zone) TXT(_ context.Context, name string) (dns.Answer[string], error) {
	return lookup(z, name, func(n *node) []string { return n.txt })
}

func (z zone) MX(_ context.Context, name string) (dns.Answer[dns.MX], error) {
	return lookup(z, name, func(n *node) []dns.MX { return n.mx })
}

func (z zone) A(_ context.Context, name string) (dns.Answer[netip.Addr], error) {
	return lookup(z, name, func(n *node) []netip.Addr { return n.a })
}

func (z zone) AAAA(_ context.Context, name string) (dns.Answer[netip.Addr], error) {
	return lookup(z, name, func(n *node) []netip.Addr { return n.aaaa })
}

func (z zone) PTR(_ context.Context, addr netip.Addr) (dns.Answer[string], error) {
	labels := strings.Split(dotted(addr), ".")
	slices.Reverse(labels)
	arpa := ".in-addr.arpa"
	if addr.Is6() {
		arpa = ".ip6.arpa"
	}
	return lookup(z, strings.Join(labels, ".")+arpa, func(n *node) []string { return n.ptr })
}

// readSuite returns the scenarios of the suite.
func readSuite(t *testing.T) []scenario {
	t.Helper()
	f, err := os.Open("testdata/rfc7208-tests.yml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []scenario
	for d := yaml.NewDecoder(f); ; {
		var s scenario
		if err := d.Decode(&s); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
}

// suiteCases is how many cases the suite has; a parser of the file that lost
// some would make the test worthless.
const suiteCases = 203

// TestSuite runs every case of the openspf suite, with its explanations.
func TestSuite(t *testing.T) {
	t.Parallel()
	ran := 0
	for _, s := range readSuite(t) {
		z := s.zone(t)
		for name, c := range s.Tests {
			ran++
			t.Run(s.Description+"/"+name, func(t *testing.T) { c.run(t, z) })
		}
	}
	if ran != suiteCases {
		t.Errorf("%d cases ran, want %d", ran, suiteCases)
	}
}

func (c testCase) run(t *testing.T, z zone) {
	checker := Checker{Resolver: z}
	q := Query{Client: netip.MustParseAddr(c.Host), Helo: c.Helo, Domain: c.Helo}
	if c.MailFrom != "" {
		at := strings.LastIndexByte(c.MailFrom, '@')
		q.Local, q.Domain = c.MailFrom[:at], c.MailFrom[at+1:]
	}
	got := checker.Check(t.Context(), q)
	allowed := []string{c.Result.Value}
	if c.Result.Kind == yaml.SequenceNode {
		allowed = nil
		if err := c.Result.Decode(&allowed); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Contains(allowed, string(got.Result)) {
		t.Errorf("section %s: %s from %s is %+v, want %v", c.Spec, c.MailFrom, c.Host, got, allowed)
	}
	want := c.Explanation
	if want == "DEFAULT" {
		want = ""
	}
	if c.Explanation != "" && !strings.EqualFold(got.Explanation, want) {
		t.Errorf("section %s: explanation %q, want %q", c.Spec, got.Explanation, want)
	}
	if problem := got.Result == TempError || got.Result == PermError; problem != (got.Problem != "") {
		t.Errorf("problem of %v is %q", got.Result, got.Problem)
	}
	if got.Result == None && fmt.Sprint(got) != fmt.Sprint(Answer{Result: None}) {
		t.Errorf("none says %+v", got)
	}
}
