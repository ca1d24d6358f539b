package policy

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/nearest"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// restriction describes one name that may stand in a list.
type restriction struct {
	needs mail.Phase                     // the earliest place in the dialogue where it can answer
	about *subject                       // what its reply is about; nil takes the list's
	input func(*mail.Transaction) string // what it looks at; nil is what it is about
	deps  []need
	args  []string // attributes it knows
	make  func(b *builder, at scope, name string, spec Spec) Stage
}

// need is something outside that a restriction asks.
type need struct {
	what string
	met  func(*Deps) bool
}

var (
	directory = need{"a directory of recipients", func(d *Deps) bool { return d.Recipients != nil }}
	accounts  = need{"a directory with policy_attributes", func(d *Deps) bool { return d.Accounts != nil }}
	owners    = need{"a directory of sender addresses", func(d *Deps) bool { return d.Owners != nil }}
	dns       = need{"a DNS resolver", func(d *Deps) bool { return d.Resolver != nil }}
)

// aliases are other names of restrictions: Postfix's spelling, its former
// names, and short ones.
var aliases = map[string]string{
	"permit_sasl_authenticated": "permit_authenticated",
	"reject_invalid_hostname":   "reject_invalid_helo_hostname",
	"reject_invalid_helo":       "reject_invalid_helo_hostname",
	"reject_non_fqdn_hostname":  "reject_non_fqdn_helo_hostname",
	"reject_non_fqdn_helo":      "reject_non_fqdn_helo_hostname",
	"reject_unknown_address":    "reject_unknown_sender_domain",
	"reject_unknown_client":     "reject_unknown_client_hostname",
}

// elsewhere are Postfix's restrictions whose work is done by something else.
var elsewhere = map[string]string{
	"check_relay_domains":     "use reject_unauth_destination",
	"permit_naked_ip_address": "use permit_mynetworks",
	"reject_maps_rbl":         "use a restriction for each list",
}

// Names returns the names a list may hold, in order, for documents.
func Names() []string {
	return append(slices.Sorted(maps.Keys(restrictionTable())), "warn_if_reject")
}

// restrictionTable returns what each name means.
func restrictionTable() map[string]restriction {
	known := map[string]restriction{
		"permit":          {make: simple(permitAlways)},
		"reject":          {make: general(rejectAlways)},
		"defer":           {make: general(deferAlways)},
		"defer_if_permit": {make: general(flagPermit)},
		"defer_if_reject": {make: general(flagReject)},
		"sleep":           {args: []string{"seconds"}, make: makeSleep},
		"check_access":    {args: accessAttributes, make: makeAccess},

		"reject_unauth_pipelining":      {make: general(rejectPipelining)},
		"reject_multi_recipient_bounce": {needs: mail.PhaseRecipient, make: general(rejectBounceToMany)},

		"permit_mynetworks":          {args: []string{"networks"}, input: aboutClient.what, make: makeNetworks},
		"permit_authenticated":       {needs: mail.PhaseMail, input: loginOf, make: makeAuthenticated},
		"permit_account":             ofAccount(permitAccount),
		"reject_account":             ofAccount(rejectAccount),
		"permit_tls_clientcerts":     {needs: mail.PhaseHelo, args: []string{"subjects", "table", "digest", "search_order"}, input: aboutClient.what, make: makeCertificates},
		"permit_tls_all_clientcerts": {needs: mail.PhaseHelo, input: aboutClient.what, make: simple(permitVerified)},
		"permit_inet_interfaces":     {input: aboutClient.what, make: simpleOf(func(Domains) func(*mail.Transaction) mail.Verdict { return permitInterfaces() })},
		"check_ccert_access":         accessTo(aboutCertificate, mail.PhaseHelo, "digest", "search_order"),
		"check_sasl_access":          accessTo(aboutLogin, mail.PhaseMail),
		"reject_plaintext_session":   {needs: mail.PhaseHelo, input: aboutClient.what, make: simple(rejectPlaintext)},
		"check_client_access":        accessTo(aboutClient, mail.PhaseConnect),

		"reject_invalid_helo_hostname":  {needs: mail.PhaseHelo, about: of(aboutHelo), make: simple(rejectInvalidHelo)},
		"reject_non_fqdn_helo_hostname": {needs: mail.PhaseHelo, about: of(aboutHelo), make: simple(rejectUnqualifiedHelo)},
		"check_helo_access":             accessTo(aboutHelo, mail.PhaseHelo),

		"reject_non_fqdn_sender": {needs: mail.PhaseMail, about: of(aboutSender), make: simple(rejectUnqualifiedSender)},
		"reject_unlisted_sender": {needs: mail.PhaseMail, about: of(aboutSender), deps: []need{directory},
			make: asking(rejectUnlistedSender)},
		"reject_sender_login_mismatch":                 mismatch(ownership{authenticated: true, unauthenticated: true}),
		"reject_authenticated_sender_login_mismatch":   mismatch(ownership{authenticated: true}),
		"reject_unauthenticated_sender_login_mismatch": mismatch(ownership{unauthenticated: true}),
		"reject_known_sender_login_mismatch":           mismatch(ownership{authenticated: true, unauthenticated: true, knownOnly: true}),
		"check_sender_access":                          accessTo(aboutSender, mail.PhaseMail),
		"reject_header_from_mismatch":                  {needs: mail.PhaseMail, args: []string{"with"}, make: makeHeaderFrom},

		"permit_auth_destination":   toRecipient(simpleOf(permitAuthDestination)),
		"reject_unauth_destination": toRecipient(relayCheck(status.RelayDenied)),
		"defer_unauth_destination":  toRecipient(relayCheck(status.RelayDeferred)),
		"reject_non_fqdn_recipient": toRecipient(simple(rejectUnqualifiedRecipient)),
		"reject_unlisted_recipient": toRecipient(asking(rejectUnlistedRecipient), directory),
		"check_recipient_access":    accessTo(aboutRecipient, mail.PhaseRecipient),
	}
	maps.Copy(known, namedByDNS())
	return known
}

type (
	decider func(*mail.Transaction) mail.Verdict
	maker   func(b *builder, at scope, name string, spec Spec) Stage
)

func of(s subject) *subject { return &s }

// general makes a restriction that speaks of what its list is about.
func general(decide func(about subject, tx *mail.Transaction) mail.Verdict) maker {
	return func(_ *builder, at scope, name string, _ Spec) Stage {
		return plain{name, func(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
			return decide(at.about.in(ctx), tx), nil
		}}
	}
}

// simple makes a restriction that needs only the transaction.
func simple(decide decider) maker {
	return func(_ *builder, _ scope, name string, _ Spec) Stage { return always(name, decide) }
}

// simpleOf makes a restriction that needs to know our domains.
func simpleOf(decide func(Domains) func(*mail.Transaction) mail.Verdict) maker {
	return func(b *builder, _ scope, name string, _ Spec) Stage {
		return always(name, decide(b.chain.deps.Domains))
	}
}

func relayCheck(reason status.Reason) maker {
	return func(b *builder, _ scope, name string, _ Spec) Stage {
		return always(name, refuseUnauthDestination(b.chain.deps.Domains, reason))
	}
}

// asking makes a restriction that asks the directory.
func asking(decide func(Config, Deps) asked) maker {
	return func(b *builder, _ scope, name string, _ Spec) Stage {
		return plain{name, decide(b.chain.cfg, b.chain.deps)}
	}
}

func toRecipient(make maker, deps ...need) restriction {
	return restriction{needs: mail.PhaseRecipient, about: of(aboutRecipient), deps: deps, make: make}
}

func mismatch(o ownership) restriction {
	return restriction{needs: mail.PhaseMail, about: of(aboutSender), deps: []need{owners},
		make: func(b *builder, _ scope, name string, _ Spec) Stage {
			made := o
			made.name, made.owners = name, b.chain.deps.Owners
			return made
		}}
}

var accessAttributes = []string{"table", "subdomains", "reject_code", "defer_code"}

func accessTo(about subject, needs mail.Phase, more ...string) restriction {
	return restriction{needs: needs, about: of(about), args: append(more, accessAttributes...), make: makeAccess}
}

func makeAccess(b *builder, at scope, name string, spec Spec) Stage {
	if at.inTable {
		b.mistake(spec.Pos, name+" needs a table, which a table's line cannot give", "name it in the restriction list")
		return nil
	}
	if name == "check_access" && (at.about == aboutData || at.about == aboutEndOfData) {
		b.mistake(spec.Pos, name+" has nothing to look up in this list", "use check_sender_access or another one that says what")
	}
	at.noPermit = forbidsPermit(name)
	a := &access{
		name: name, about: at.about, source: b.table(at, spec), order: table.Order{Delimiters: b.chain.cfg.Delimiter},
		rejectCode: b.code(spec, "reject_code"), deferCode: b.code(spec, "defer_code"), noPermit: at.noPermit,
	}
	if at.about == aboutCertificate {
		a.keys = b.parseFingerprints(spec, byCertificate, byPublicKey)
	}
	switch value := strings.Join(spec.Args["subdomains"], " "); value {
	case "", "parent":
	case "dotted":
		a.dottedParents = true
	default:
		b.mistake(spec.Pos, "subdomains of "+name+" is "+value, "use parent or dotted")
	}
	return a
}

func makeNetworks(b *builder, _ scope, name string, spec Spec) Stage {
	networks := b.chain.cfg.Networks
	if given, ok := spec.Args["networks"]; ok {
		networks = make([]netip.Prefix, 0, len(given))
		for _, s := range given {
			network, err := table.ParseNetwork(s)
			if err != nil {
				b.mistake(spec.Pos, err.Error(), `write a network as "192.0.2.0/24", "2001:db8::/32" or one address`)
				continue
			}
			networks = append(networks, network)
		}
	}
	return always(name, permitNetworks(networks))
}

// canonicalName returns the name under which the table knows a restriction.
func canonicalName(name string) string {
	if canonical, ok := aliases[name]; ok {
		return canonical
	}
	return name
}

// suggest says what to do about an unknown name.
func (b *builder) suggest(name string) string {
	if remedy, ok := elsewhere[name]; ok {
		return remedy
	}
	candidates := slices.Collect(maps.Keys(b.known))
	candidates = slices.AppendSeq(candidates, maps.Keys(aliases))
	candidates = slices.AppendSeq(candidates, maps.Keys(b.chain.deps.Stages))
	candidates = slices.AppendSeq(candidates, maps.Keys(b.classes))
	candidates = append(candidates, "warn_if_reject")
	return didYouMean(name, candidates)
}

func suggestList(name string) string {
	var names []string
	for _, l := range Lists() {
		names = append(names, string(l))
	}
	if s := didYouMean(name, names); s != "" {
		return s
	}
	return "the lists are " + strings.Join(names, ", ")
}

// didYouMean returns a question with the nearest candidate, or "".
func didYouMean(name string, candidates []string) string {
	slices.Sort(candidates)
	best := nearest.Word(name, candidates)
	if best == "" {
		return ""
	}
	return "did you mean " + best + "?"
}
