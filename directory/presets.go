package directory

import (
	"maps"
	"slices"
)

// presets are the shapes directories come in. OpenLDAP's mailLocalAddress and
// 389-ds' mailAlternateAddress share one OID, so migrated directories show the
// attribute under either name: presets read both.
var presets = map[string]Mapping{
	"openldap": {
		UserBase:                "ou=people,{base}",
		UserFilter:              "(objectClass=inetOrgPerson)",
		NameAttribute:           "uid",
		LoginAttributes:         []string{"uid"},
		AddressAttributes:       []string{"mail", "mailLocalAddress", "mailAlternateAddress"},
		ForwardAttributes:       []string{"mailRoutingAddress"},
		HostAttribute:           "mailHost",
		DisabledFilter:          "(pwdAccountLockedTime=000001010000Z)",
		GroupBase:               "{base}",
		GroupFilter:             "(|(objectClass=groupOfNames)(objectClass=groupOfUniqueNames)(objectClass=groupOfURLs)(objectClass=nisMailAlias))",
		GroupAddressAttributes:  []string{"mail", "mailLocalAddress", "mailAlternateAddress"},
		GroupNameAttributes:     []string{"cn"},
		GroupNameFilter:         "(objectClass=nisMailAlias)",
		MemberDNAttributes:      []string{"member", "uniqueMember"},
		MemberAddressAttributes: []string{"rfc822MailMember", "mgrpRFC822MailMember"},
		MemberURLAttributes:     []string{"memberURL"},
		SendAsAttributes:        []string{"owner"},
		CredentialAttributes:    []string{"pwdChangedTime", "shadowLastChange", "sambaPwdLastSet"},
	},
	"openldap-qmail":       qmail,
	"qmail":                qmail,
	"openldap-postfixbook": postfixBook,
	"postfix-book":         postfixBook,
	"389ds":                ds389,
	// What a database's queries say, by the names of their columns.
	"sql": {
		UserBase:                "ou=people,{base}",
		UserFilter:              "(objectClass=account)",
		NameAttribute:           "uid",
		LoginAttributes:         []string{"uid"},
		AddressAttributes:       []string{"mail"},
		ForwardAttributes:       []string{"forward"},
		HostAttribute:           "host",
		TransportAttribute:      "transport",
		QuotaAttribute:          "quota",
		DisabledFilter:          "(|(disabled=1)(disabled=t*)(disabled=y*)(active=0)(active=f*)(active=n*))",
		GroupBase:               "ou=aliases,{base}",
		GroupFilter:             "(objectClass=alias)",
		GroupAddressAttributes:  []string{"mail"},
		MemberAddressAttributes: []string{"member"},
		SendAsAttributes:        []string{"sender"},
	},
	"freeipa": {
		UserBase:                "cn=users,cn=accounts,{base}",
		UserFilter:              "(&(objectClass=person)(uid=*)(!(objectClass=ipahost)))",
		NameAttribute:           "uid",
		LoginAttributes:         []string{"uid", "krbPrincipalName"},
		AddressAttributes:       []string{"mail", "mailAlternateAddress", "mailLocalAddress"},
		ForwardAttributes:       []string{"mailForwardingAddress", "mailRoutingAddress"},
		HostAttribute:           "mailHost",
		QuotaAttribute:          "mailQuota",
		DisabledFilter:          "(nsAccountLock=TRUE)",
		ExpiryAttributes:        []string{"krbPrincipalExpiration"},
		GroupBase:               "cn=groups,cn=accounts,{base}",
		GroupFilter:             "(objectClass=ipaUserGroup)",
		GroupAddressAttributes:  []string{"mail", "mailAlternateAddress", "mailLocalAddress"},
		MemberDNAttributes:      []string{"member"},
		MemberAddressAttributes: []string{"mgrpRFC822MailMember"},
		SendAsAttributes:        []string{"memberManager", "owner"},
		CredentialAttributes:    []string{"krbLastPwdChange", "passwordExpirationTime", "krbPasswordExpiration"},
	},
	systemUsers: {
		UserBase:                "ou=people,{base}",
		UserFilter:              "(objectClass=posixAccount)",
		NameAttribute:           "uid",
		LoginAttributes:         []string{"uid"},
		AddressAttributes:       []string{"mail"},
		GroupBase:               "ou=groups,{base}",
		GroupFilter:             "(objectClass=posixGroup)",
		GroupAddressAttributes:  []string{"mail"},
		MemberAddressAttributes: []string{"memberUid"},
	},
	"ad": {
		UserBase:               "{base}",
		UserFilter:             "(&(objectClass=user)(!(objectClass=computer)))",
		NameAttribute:          "sAMAccountName",
		LoginAttributes:        []string{"sAMAccountName", "userPrincipalName"},
		AddressAttributes:      []string{"mail", "proxyAddresses"},
		PrefixedAttributes:     []string{"proxyAddresses", "targetAddress"},
		ForwardAttributes:      []string{"targetAddress"},
		ForwardDNAttributes:    []string{"altRecipient"},
		KeepFilter:             "(deliverAndRedirect=TRUE)",
		HostAttribute:          "extensionAttribute10",
		QuotaAttribute:         "mDBOverHardQuotaLimit",
		QuotaUnit:              1 << 10,
		DisabledFilter:         "(userAccountControl:1.2.840.113556.1.4.803:=2)",
		ExpiryAttributes:       []string{"accountExpires"},
		GroupBase:              "{base}",
		GroupFilter:            "(objectClass=group)",
		ContactFilter:          "(&(objectClass=contact)(targetAddress=*))",
		PrimaryGroupAttribute:  "primaryGroupID",
		GroupAddressAttributes: []string{"mail", "proxyAddresses"},
		MemberDNAttributes:     []string{"member"},
		SendAsAttributes:       []string{"publicDelegates", "managedBy"},
		CredentialAttributes:   []string{"pwdLastSet"},
		LoginOnlyFilter:        "(msExchRequireAuthToSendTo=TRUE)",
		PosterAttributes:       []string{"authOrig", "dLMemSubmitPerms"},
		DeniedPosterAttributes: []string{"unauthOrig", "dLMemRejectPerms"},
		ModeratorAttributes:    []string{"msExchModeratedByLink"},
		ModeratedFilter:        "(msExchEnableModeration=TRUE)",
	},
}

// qmail is the shape of qmail-ldap's schema.
var qmail = Mapping{
	UserBase:                "ou=people,{base}",
	UserFilter:              "(&(objectClass=qmailUser)(!(accountStatus=deleted)))",
	NameAttribute:           "uid",
	LoginAttributes:         []string{"uid"},
	AddressAttributes:       []string{"mail", "mailAlternateAddress"},
	ForwardAttributes:       []string{"mailForwardingAddress"},
	KeepFilter:              "(!(|(deliveryMode=nolocal)(deliveryMode=forwardonly)(deliveryMode=nombox)))",
	HostAttribute:           "mailHost",
	QuotaAttribute:          "mailQuotaSize",
	DisabledFilter:          "(&(accountStatus=*)(!(accountStatus=active)))",
	GroupBase:               "{base}",
	GroupFilter:             "(|(objectClass=qmailGroup)(objectClass=groupOfNames))",
	GroupAddressAttributes:  []string{"mail", "mailAlternateAddress"},
	MemberDNAttributes:      []string{"member", "dnMember"},
	MemberAddressAttributes: []string{"rfc822Member", "mailForwardingAddress"},
	SendAsAttributes:        []string{"owner"},
	CredentialAttributes:    []string{"pwdChangedTime", "shadowLastChange"},
	MembersOnlyFilter:       "(membersOnly=TRUE)",
	PosterAttributes:        []string{"rfc822Sender", "dnSender"},
	ModeratorAttributes:     []string{"rfc822Moderator", "dnModerator"},
}

// postfixBook is the shape of the postfix-book schema, where a person may name
// groups that have no entry.
var postfixBook = Mapping{
	UserBase:                "ou=people,{base}",
	UserFilter:              "(objectClass=PostfixBookMailAccount)",
	NameAttribute:           "uid",
	LoginAttributes:         []string{"uid"},
	AddressAttributes:       []string{"mail", "mailAlias"},
	ForwardAttributes:       []string{"mailForwardingAddress"},
	QuotaAttribute:          "mailQuota",
	QuotaUnit:               1 << 10,
	DisabledFilter:          "(mailEnabled=FALSE)",
	GroupBase:               "{base}",
	GroupFilter:             "(|(objectClass=PostfixBookMailForward)(objectClass=groupOfNames))",
	GroupAddressAttributes:  []string{"mail", "mailAlias"},
	MemberDNAttributes:      []string{"member"},
	MemberAddressAttributes: []string{"mailForwardingAddress"},
	MembershipAttributes:    []string{"mailGroupMember"},
	SendAsAttributes:        []string{"owner"},
	CredentialAttributes:    []string{"pwdChangedTime", "shadowLastChange"},
}

// ds389 is the shape of the mail classes that a 389 Directory Server comes with.
var ds389 = Mapping{
	UserBase:                "ou=people,{base}",
	UserFilter:              "(&(objectClass=mailRecipient)(uid=*))",
	NameAttribute:           "uid",
	LoginAttributes:         []string{"uid"},
	AddressAttributes:       []string{"mail", "mailAlternateAddress", "mailLocalAddress"},
	ForwardAttributes:       []string{"mailForwardingAddress", "mailRoutingAddress"},
	HostAttribute:           "mailHost",
	QuotaAttribute:          "mailQuota",
	DisabledFilter:          "(nsAccountLock=TRUE)",
	GroupBase:               "{base}",
	GroupFilter:             "(objectClass=mailGroup)",
	GroupAddressAttributes:  []string{"mail", "mailAlternateAddress", "mailLocalAddress"},
	MemberDNAttributes:      []string{"uniqueMember", "member"},
	MemberAddressAttributes: []string{"mgrpRFC822MailMember"},
	MemberURLAttributes:     []string{"memberURL"},
	SendAsAttributes:        []string{"owner"},
	CredentialAttributes:    []string{"passwordExpirationTime", "pwdUpdateTime"},
	PosterAttributes:        []string{"mgrpAllowedBroadcaster"},
	PosterDomainAttributes:  []string{"mgrpAllowedDomain"},
	ModeratorAttributes:     []string{"mgrpModerator"},
}

// systemUsers is the shape of the machine's own users, which are no directory
// server's: only package nss has it.
const systemUsers = "nss"

// PresetNames returns the names of the presets, sorted.
func PresetNames() []string { return slices.Sorted(maps.Keys(presets)) }

// PresetAttributes returns the names of all attributes that a preset gives a
// meaning to, each once.
func PresetAttributes(name string) []string {
	m := presets[name]
	all := []string{m.NameAttribute, m.HostAttribute, m.TransportAttribute, m.QuotaAttribute, m.PrimaryGroupAttribute}
	for _, list := range m.lists() {
		all = append(all, *list...)
	}
	return distinct(all)
}
