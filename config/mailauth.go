package config

import (
	"os"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/mailauth"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
	"github.com/postern-mail/postern/policy/mailauth/dmarc"
)

// DMARC says what is done about what authenticate finds.
type DMARC struct {
	block
	Honour     string        `conf:"honour" default:"off" oneof:"off quarantine reject" doc:"Up to which policy domains get what they ask for with mail that fails. off: nothing is done. quarantine: what they want rejected is put into quarantine, too. reject: it is refused (550 5.7.26)."`
	Quarantine string        `conf:"quarantine" default:"junk" oneof:"junk hold mark" doc:"What quarantine means. junk: junk_field is put on top of the message, for the recipients' filters. hold: it waits in the queue until somebody releases it. mark: only Authentication-Results tells."`
	JunkField  string        `conf:"junk_field" default:"X-Spam-Flag: YES" doc:"Header field that marks junk."`
	Malformed  string        `conf:"malformed_from" default:"accept" oneof:"accept junk hold reject" doc:"What happens to messages that do not name their author as RFC 5322 asks: no From field, several, or none that can be read. No policy can be told for them."`
	Sealers    []mail.Domain `conf:"trusted_sealers" doc:"Domains whose ARC seals are believed: mail that fails here, and passed where they saw it, is let through."`
	Forwarders []mail.Domain `conf:"trusted_forwarders" doc:"Domains whose mail is let through whoever it claims to be from, such as mailing lists. SPF or DKIM must pass for them."`
	Partial    string        `conf:"partial_signatures" default:"policy" oneof:"policy pass" doc:"DKIM signatures that cover only the beginning of the body (l=) of a message with more behind it, which anybody may have added. policy: they do not count, for DMARC neither. pass: they do, with a remark in Authentication-Results."`
	Suffixes   string        `conf:"public_suffix_file" doc:"Public suffix list that says where organizations begin, as publicsuffix.org gives it away. Read again when it changes. Empty: the one built into the program."`

	Reports *DMARCReports `conf:"reports,block" doc:"Reports to domains on what became of mail in their name, once a day, where they ask for them (aggregate reports, rua). Without this block none are made."`
}

// DMARCRules returns what is done about what authenticate finds.
func (g *Gateway) DMARCRules() mailauth.Rules {
	d := g.DMARC
	if d == nil {
		return mailauth.Rules{}
	}
	r := mailauth.Rules{
		Quarantine: mailauth.Quarantine(d.Quarantine), Malformed: mailauth.Malformed(d.Malformed), JunkField: d.JunkField,
		Sealers: texts(d.Sealers), Forwarders: texts(d.Forwarders), Honour: dmarc.Policy(d.Honour),
	}
	if d.Honour == "off" {
		r.Honour = dmarc.PolicyNone
	}
	return r
}

func texts(domains []mail.Domain) []string {
	all := make([]string, len(domains))
	for i, d := range domains {
		all[i] = string(d)
	}
	return all
}

// PublicSuffixFile returns the path of the public suffix list; "" for the one
// built in.
func (g *Gateway) PublicSuffixFile() string {
	if g.DMARC == nil {
		return ""
	}
	return g.DMARC.Suffixes
}

// Verification is how strict signatures of mail that comes in are verified, also
// without a gateway.
func (g *Gateway) Verification() dkim.Config {
	return dkim.Config{RefusePartial: g == nil || g.DMARC == nil || g.DMARC.Partial != "pass"}
}

func (c checker) dmarc(d *DMARC) {
	if d == nil {
		return
	}
	c.dmarcReports(d.Reports)
	if name, value, ok := strings.Cut(d.JunkField, ":"); !ok || name == "" || strings.TrimSpace(value) == "" ||
		strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
		c.errorf(d.rangeOf("junk_field"), "Wrong value", `junk_field is one header field in ASCII, such as "X-Spam-Flag: YES".`)
	}
	if d.Suffixes != "" {
		f, err := os.Open(d.Suffixes)
		if err == nil {
			_, err = dmarc.ReadSuffixes(f)
			_ = f.Close() // only read
		}
		if err != nil {
			c.errorf(d.rangeOf("public_suffix_file"), "Wrong file", "%v.", err)
		}
	}
}

// mailauthStages adds check_spf and authenticate.
func (c checker) mailauthStages(all map[string]func(policy.Spec) (policy.Stage, error)) {
	all[mailauth.CheckSPF] = func(spec policy.Spec) (policy.Stage, error) {
		return mailauth.NewCheckSPF(spec, mailauth.SPFDeps{})
	}
	all[mailauth.Authenticate] = func(spec policy.Spec) (policy.Stage, error) {
		return mailauth.NewAuthenticate(spec, mailauth.Deps{})
	}
}
