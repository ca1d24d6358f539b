package mail

// Account is where a person's or a role's mail lives, as the directory knows it.
type Account struct {
	// Name is the account's canonical login and the name of its mailboxes'
	// owner in the backend.
	Name string
	// Primary is the address mail is delivered under.
	Primary Address
	// Addresses are all addresses the account may use as its own, Primary
	// included.
	Addresses []Address
	// Disabled accounts cannot log in; whether they still receive is policy.
	Disabled bool
	// QuotaOctets is the mailbox limit; 0 when the directory sets none.
	QuotaOctets int64
	// QuotaMessages is how many messages the mailboxes may hold; 0 when the
	// directory sets no limit.
	QuotaMessages int64
	// Host names the backend that holds the account; "" for the configured one.
	Host string
	// Transport is where the directory says mail for the account goes, as
	// "target", "target:nexthop" or ":nexthop"; "" when it does not say. It
	// comes before Host.
	Transport string
	// NoRelay tells that the account may send to our own domains only.
	NoRelay bool
	// Attributes are those that the configuration wants for rules, by the name
	// it gives them, in lower case.
	Attributes map[string][]string
	// Source names the directory that answered.
	Source string
	// CredentialVersion changes when the account's password does: what the
	// directory tells of that time. "" when it tells nothing. It is compared and
	// never read.
	CredentialVersion string
}
