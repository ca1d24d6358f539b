// Package pam verifies passwords through PAM, in a helper process of its own.
//
// PAM modules are arbitrary C: they block, fork, change signal handlers, need
// to be root. So the daemon holds none of it: it asks the helper (package
// helper), one request and one response to a connection.
//
// The answers are three-valued: what PAM says about the person is yes or no,
// and whatever else happens, in a module, in the helper or on the way to it, is
// not known. Account management (pam_acct_mgmt) is always part of the question:
// expired and locked accounts and host-based access rules live there.
package pam
