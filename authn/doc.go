// Package authn decides who somebody is. A login and a password come in from a
// SASL exchange, an Identity or a refusal goes out.
//
// Chain asks its verifiers in order. Each answers one of four things: yes; no
// (a *status.Error with AuthFailed, or with AccountDisabled when the password
// may be right), which ends the chain unless the link is additional; not mine
// (ErrUnknownLogin), ask the next; or anything else, which means that it does
// not know, because a directory is down, a helper hangs, a file cannot be read.
// What is not known is never "no": the client hears AuthTemporary and keeps its
// password.
//
// The chain guarantees: credentials that cannot be right (an empty password, a
// NUL, more than a KiB) never reach a verifier; the same wrong password for a
// login goes upstream once in a window, so that a forgotten telephone does not
// lock the account in the directory, and so few others that an attacker does
// not either, however many connections and aliases he uses; an unknown login and a wrong password get
// the same answer, at the same beat of the clock; one audit event per attempt,
// without the password.
//
// The package also holds the password hashes (Hasher), which the verifiers
// share so that one bound holds for the work of all of them. How a password
// travels is left to authn/sasl, who is asked to the packages beside it.
package authn
