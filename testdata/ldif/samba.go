package ldif

import (
	_ "embed"
	"strings"
)

//go:embed exchange.ad.ldif
var exchangeAttributes string

// SambaClasses returns the change that lets people, groups and contacts carry
// the attributes of Exchange.
func SambaClasses() string {
	return `dn: CN=Mail-Recipient,CN=Schema,CN=Configuration,DC=example,DC=com
changetype: modify
add: mayContain
mayContain: targetAddress
mayContain: deliverAndRedirect
mayContain: mDBOverHardQuotaLimit
mayContain: extensionAttribute10
mayContain: publicDelegates
mayContain: altRecipient
`
}

// LDIFForSamba returns the AD tree as a real domain takes it: attributes of
// Exchange for the schema, the entries without passwords and without the
// containers that every domain has, and then the changes that link entries to
// each other. A member that does not exist, which a domain does not allow, is
// created and removed again.
func (t Tree) LDIFForSamba() (schema string, entries []string, links string) {
	const ghost = "CN=nobody,CN=Users,DC=example,DC=com"
	var changes strings.Builder
	for record := range strings.SplitSeq(string(t.LDIF), "\n\n") {
		record = strings.TrimSpace(record)
		if strings.HasPrefix(record, "#") || strings.Contains(record, "objectClass: domainDNS") || strings.Contains(record, "objectClass: container") {
			continue
		}
		dn, _, _ := strings.Cut(record, "\n")
		var kept []string
		for line := range strings.SplitSeq(record, "\n") {
			name, _, _ := strings.Cut(line, ":")
			switch name {
			case "userPassword", "#":
			case "member", "publicDelegates", "managedBy", "altRecipient":
				changes.WriteString(dn + "\nchangetype: modify\nadd: " + name + "\n" + line + "\n\n")
			default:
				kept = append(kept, line)
			}
		}
		entries = append(entries, strings.Join(kept, "\n"))
	}
	entries = append(entries, "dn: "+ghost+"\nobjectClass: contact")
	changes.WriteString("dn: " + ghost + "\nchangetype: delete\n\n")
	return exchangeAttributes, entries, changes.String()
}
