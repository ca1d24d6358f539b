package policy

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// namedByDNS are the restrictions that ask the DNS, but for those of lists in
// it.
func namedByDNS() map[string]restriction {
	known := map[string]restriction{
		"reject_unknown_client_hostname":         {about: of(aboutClient), make: answering(rejectUnknownClient)},
		"reject_unknown_reverse_client_hostname": {about: of(aboutClient), make: answering(rejectUnknownReverse)},
		"check_reverse_client_hostname_access":   accessTo(aboutReverseName, mail.PhaseConnect),

		"reject_unknown_helo_hostname": {needs: mail.PhaseHelo, about: of(aboutHelo), deps: []need{dns}, args: []string{"tempfail_action"},
			make: func(b *builder, _ scope, name string, spec Spec) Stage {
				return rejectUnknownHelo{name, b.tempfail(spec), b.chain.deps.Resolver}
			}},
		"reject_unknown_sender_domain":    unknownDomain(aboutSender, mail.PhaseMail, status.SenderDomainMissing, status.SenderNullMX),
		"reject_unknown_recipient_domain": unknownDomain(aboutRecipient, mail.PhaseRecipient, status.RecipientDomainMissing, status.NullMX),

		"permit_mx_backup": {needs: mail.PhaseRecipient, about: of(aboutRecipient), deps: []need{dns}, args: []string{"networks"}, make: makeBackup},
	}
	for what, about := range map[string]subject{
		"client": aboutClient, "reverse_client_hostname": aboutReverseName, "helo": aboutHelo, "sender": aboutSender, "recipient": aboutRecipient,
	} {
		for kind, records := range map[string]hostRecords{"a": hostsAddress, "mx": hostsMX, "ns": hostsNS} {
			known["check_"+what+"_"+kind+"_access"] = restriction{
				needs: neededFor[about], about: of(about), deps: []need{dns}, args: accessAttributes, make: makeHostAccess(records),
			}
		}
	}
	return known
}

var neededFor = map[subject]mail.Phase{
	aboutClient: mail.PhaseConnect, aboutReverseName: mail.PhaseConnect, aboutHelo: mail.PhaseHelo,
	aboutSender: mail.PhaseMail, aboutRecipient: mail.PhaseRecipient,
}

func unknownDomain(about subject, needs mail.Phase, missing, nullMX status.Reason) restriction {
	return restriction{needs: needs, about: of(about), deps: []need{dns}, args: []string{"tempfail_action"},
		make: func(b *builder, _ scope, name string, spec Spec) Stage {
			return rejectUnknownDomain{name, about, missing, nullMX, b.tempfail(spec), b.chain.deps}
		}}
}

// tempfail reads what follows when the DNS does not answer: Postfix's
// *_tempfail_action.
func (b *builder) tempfail(spec Spec) mail.Action {
	switch value := strings.Join(spec.Args["tempfail_action"], " "); value {
	case "", "defer_if_permit":
	case "defer":
		return mail.Reject
	default:
		b.mistake(spec.Pos, "tempfail_action of "+spec.Name+" is "+value, "use defer_if_permit or defer")
	}
	return mail.DeferIfPermit
}

// forbidsPermit are access restrictions on what strangers write into the DNS
// themselves: who permits by that is open to everybody.
func forbidsPermit(name string) bool {
	return strings.HasPrefix(name, "check_reverse_client_hostname_") ||
		slices.ContainsFunc([]string{"_a_access", "_mx_access", "_ns_access"}, func(end string) bool { return strings.HasSuffix(name, end) })
}

func makeHostAccess(records hostRecords) maker {
	return func(b *builder, at scope, name string, spec Spec) Stage {
		inner, ok := makeAccess(b, at, name, spec).(*access)
		if !ok {
			return nil
		}
		return &hostAccess{access: inner, records: records, resolver: b.chain.deps.Resolver}
	}
}

func makeBackup(b *builder, _ scope, name string, spec Spec) Stage {
	backup := mxBackup{
		name: name, domains: b.chain.deps.Domains, resolver: b.chain.deps.Resolver,
		hostname: b.chain.cfg.Hostname, ours: b.chain.deps.OurAddress,
	}
	for _, s := range spec.Args["networks"] {
		network, err := table.ParseNetwork(s)
		if err != nil {
			b.mistake(spec.Pos, err.Error(), `write a network as "192.0.2.0/24", "2001:db8::/32" or one address`)
			continue
		}
		backup.networks = append(backup.networks, network)
	}
	return backup
}
