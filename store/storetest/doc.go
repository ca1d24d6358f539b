// Package storetest holds what tests need of the store: the conformance suite
// that every engine passes, and an embedded store ready to use.
package storetest
