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
	// Host names the backend that holds the account; "" for the configured one.
	Host string
	// Transport is where the directory says mail for the account goes, as
	// "target", "target:nexthop" or ":nexthop"; "" when it does not say. It
	// comes before Host.
	Transport string
	// Source names the directory that answered.
	Source string
}
