package mail

// Poster is who sends a message, as far as groups want to know that not
// everybody may send to.
type Poster struct {
	// Identity is who logged in; nil for nobody.
	Identity *Identity
	// Address is the reverse-path.
	Address Address
	// Trusted tells that a reverse-path of our own domains is believed without
	// a login, since the client is one of our machines.
	Trusted bool
}
