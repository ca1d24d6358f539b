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
  transport "gw.example" { next_hop = "[192.0.2.8]" }
  transport_files = ["%[1]s/transport"]
  sender "boss@corp.example" { deliver = target.smart }
  domains "relay" {
    names   = ["passed.example"]
    deliver = target.smart
  }`, 1)
	g := generationOf(t, text, map[string]string{"corp.ldif": "", "partner.ldif": "", "transport": "old@corp.example error:5.1.6 has moved\n"})
	from := map[string]mail.Address{"x@elsewhere.example": mail.MustAddress("boss@corp.example")}
	for address, want := range map[string][]string{
		"x@gw.example":        {"x@gw.example: target smtp, next hop [192.0.2.8] (rule for the recipient gw.example in the configuration)\n", "  192.0.2.8:25  TLS"},
		"old@corp.example":    {"old@corp.example: bounced 550 5.1.6 has moved (rule for the recipient old@corp.example in ", "/transport)\n"},
		"x@elsewhere.example": {"x@elsewhere.example: target smart (rule for the sender boss@corp.example in the configuration)\n", "  192.0.2.9:587"},
		"x@example.org": {
			"x@example.org: target smtp, next hop example.org (relay host)\n",
			"  mx1.example.org[192.0.2.1]:25  TLS dane (TLSA records of mx1.example.org)\n",
			"  mx2.example.org[192.0.2.2]:25  no mail now: TLSPolicyUnknown: dnssec-invalid: ",
		},
		"x@plain.example":  {"  mx1.plain.example[192.0.2.3]:25  TLS secure (level secure)\n"},
		"x@null.example":   {"next hop null.example (relay host)\n", "null MX"},
		"x@passed.example": {"target smart (domain of ours)\n", "  192.0.2.9:587  TLS may (level may)\n"},
		"x@corp.example":   {"x@corp.example: target box (domain of ours)\n"},
	} {
		var out bytes.Buffer
		if err := explainRoute(t.Context(), g.router, from[address], mail.Recipient{Address: mail.MustAddress(address)}, &out); err != nil {
			out.WriteString(err.Error())
		}
		for _, part := range want {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s: %q is not in\n%s", address, part, &out)
			}
		}
	}
}

// What the directory says of people decides before all rules, so that an
// address is explained by whom it stands for.
func TestRouteAsksTheDirectory(t *testing.T) {
	t.Parallel()
	g := generationOf(t, `hostname = "mail.example.com"
data_dir = "%[1]s/data"
directory "ldif" "corp" {
  file = "%[1]s/corp.ldif"
  base = "dc=example,dc=com"
  host "mail2.example.com" { deliver = target.mail2 }
}
gateway {
  listener "mx" { bind = ["127.0.0.1:0"] }
  domains "local" {
    names      = ["example.com"]
    recipients = directory.corp
    deliver    = target.mail1
  }
  target "lmtp" "mail1" { address = ["127.0.0.1:24"] }
  target "lmtp" "mail2" { address = ["127.0.0.1:2424"] }
}
`, map[string]string{"corp.ldif": `dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

dn: uid=ann,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: ann
mail: ann@example.com
mail: anna@example.com
mailHost: mail2.example.com

dn: uid=ben,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: ben
mail: ben@example.com
mailHost: mail9.example.com
`})
	for address, want := range map[string]string{
		"ann@example.com":  "ann@example.com: target mail2 (directory)\n  127.0.0.1:2424\n",
		"anna@example.com": "anna@example.com stands for 1 recipient(s)\nann@example.com: target mail2 (directory)\n  127.0.0.1:2424\n",
		"ben@example.com":  "ben@example.com: waits, there is no target for host mail9.example.com (directory)\n",
		"cem@example.com":  "cem@example.com: refused, no such address (postern lookup tells what the directory was asked)\n",
	} {
		var out bytes.Buffer
		if err := g.explainRoutes(t.Context(), mail.Address{}, mail.MustAddress(address), &out); err != nil {
			out.WriteString(err.Error())
		}
		if out.String() != want {
			t.Errorf("%s: got\n%s want\n%s", address, &out, want)
		}
	}
}
