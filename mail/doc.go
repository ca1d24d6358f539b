// Package mail holds the nouns that more than one room speaks of: addresses,
// envelopes, transactions, identities, verdicts and outcomes.
//
// It does no input or output and reads no clock. Terms follow RFC 5598 and
// RFC 5321; docs/terms.md lists them.
package mail
