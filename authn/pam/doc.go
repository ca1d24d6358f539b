// Package pam verifies passwords through PAM, in a helper process of its own.
//
// PAM modules are arbitrary C: they block, fork, change signal handlers, need
// to be root. So the daemon holds none of it. It speaks to the helper (package
// pamhelper, "postern pam-helper") over a Unix socket of packets: one request
// and one response to a connection, both sides checking by SO_PEERCRED whom
// they talk to. The helper is started by systemd and found at a path, or
// started and kept running by Verifier.Run.
//
// The answers are three-valued: what PAM says about the person is yes or no,
// and whatever else happens, in a module, in the helper or on the way to it, is
// not known. Account management (pam_acct_mgmt) is always part of the question:
// expired and locked accounts and host-based access rules live there.
package pam
