package mail

// Naming is how the look-up of a client's name ended.
type Naming uint8

// The outcomes. The order is that of what is known: nothing of the name was
// asked, it leads there and back, the DNS did not answer, there is none, or
// there is one that does not lead back.
const (
	NameNotAsked Naming = iota
	NameVerified
	NameUnknown // the DNS did not answer: there may be one
	NameMissing // no name stands for the address
	NameForged  // one does, and does not stand for the address itself
)

var namingNames = [...]string{"not asked", "verified", "temporary failure", "none", "forged"}

// String returns the outcome's name in logs.
func (n Naming) String() string { return namingNames[n] }

// ClientName is what the DNS says of a client's name.
type ClientName struct {
	Hostname string // leads back to the address; "" but for NameVerified
	Reverse  string // stands for the address, verified or not; "" when none is known
	Naming   Naming
}

// SetName puts what the DNS says of the client's name where stages read it.
func (c *Client) SetName(n ClientName) {
	c.Hostname, c.ReverseName, c.Naming = n.Hostname, n.Reverse, n.Naming
}
