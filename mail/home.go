package mail

import (
	"crypto/sha256"
	"strconv"
)

// HomeClass is the class, 0 or 1, of the node of a replication pair that the
// account is at home on as long as nobody moved it: the last bit of SHA-256
// over "postern home" and the account's name. Backend and gateway compute it
// alike, so that mail goes where its UIDs are given out without asking.
func (a Account) HomeClass() uint8 {
	sum := sha256.Sum256([]byte("postern home" + a.Name))
	return sum[len(sum)-1] & 1
}

// Home is where in a replication pair an account is at home, as far as who
// delivers to it knows: a class, "0" or "1", or the name of a host that the
// directory pins it to; "" when nothing is known. It is a preference and never
// a matter of safety: the other node takes the account's mail as well.
type Home string

// HomeOf is the home of a class.
func HomeOf(class uint8) Home { return Home(strconv.Itoa(int(class & 1))) }
