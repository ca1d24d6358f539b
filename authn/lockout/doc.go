// Package lockout remembers failed logins and decides who has to wait. An
// attempt goes in before anybody is asked about its password, and what came of
// it afterwards; out goes whether it may be asked about now.
//
// It keeps the directory's own lockout from being reached: wrong passwords
// that went upstream count for an account in a window that rolls, and fewer go
// there than the directory allows. The same wrong password counts once and
// is not asked again while it cannot have become right. Beyond that whoever
// fails waits longer each time, by account, by network, by wider network, and
// by the two together. Who logged in to an account from a network before is
// familiar there and does not wait because of strangers.
//
// One password tried on many accounts, and one network that tries many
// accounts, are spraying and held off at once.
//
// What it knows is in memory and written behind to a store, at most a second
// later: a power cut forgets that second and a clean end nothing. Each table
// has a bound in entries, in memory as on disk, and forgets the entry that was
// touched least recently. No password can be read back from it: passwords are
// known by a keyed hash alone, and the key is outside of the store.
//
// What an answer to a client is, and when it is sent, is left to authn.
package lockout
