package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/mail"
)

func TestRouteIsExplained(t *testing.T) {
	t.Parallel()
	names := dnstest.New(t)
	names.Sign("example.org")
	names.Add("example.org. 60 IN MX 10 mx1.example.org.", "example.org. 60 IN MX 20 mx2.example.org.",
		"mx1.example.org. 60 IN A 192.0.2.1", "mx2.example.org. 60 IN A 192.0.2.2",
		"_25._tcp.mx1.example.org. 60 IN TLSA 3 1 1 "+strings.Repeat("ab", 32))
	names.Fail("_25._tcp.mx2.example.org", "TLSA", "SERVFAIL")
	names.Add("null.example. 60 IN MX 0 .", "plain.example. 60 IN MX 10 mx1.plain.example.", "mx1.plain.example. 60 IN A 192.0.2.3")
	text := strings.Replace(twoCompanies, "gateway {", `dns { servers = ["`+names.Addr+`"] }
gateway {
  target "smtp" "smart" { address = ["[192.0.2.9]:587"] }
  tls_policy "plain.example" { tls = "secure" }
  domains "relay" {
    names   = ["passed.example"]
    deliver = target.smart
  }`, 1)
	g := generationOf(t, text, map[string]string{"corp.ldif": "", "partner.ldif": ""})
	for address, want := range map[string][]string{
		"x@example.org": {
			"x@example.org: target smtp, next hop example.org\n",
			"  mx1.example.org[192.0.2.1]:25  TLS dane (TLSA records of mx1.example.org)\n",
			"  mx2.example.org[192.0.2.2]:25  no mail now: TLSPolicyUnknown: dnssec-invalid: ",
		},
		"x@plain.example":  {"  mx1.plain.example[192.0.2.3]:25  TLS secure (level secure)\n"},
		"x@null.example":   {"next hop null.example\n", "null MX"},
		"x@passed.example": {"target smart\n", "  192.0.2.9:587  TLS may (level may)\n"},
		"x@corp.example":   {"x@corp.example: target box\n"},
	} {
		var out bytes.Buffer
		if err := explainRoute(t.Context(), g.router, mail.MustAddress(address), &out); err != nil {
			out.WriteString(err.Error())
		}
		for _, part := range want {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s: %q is not in\n%s", address, part, &out)
			}
		}
	}
}
