// Package helper is the daemon's side of "postern auth-helper": the process
// that does in the daemon's place what takes C libraries or more rights than
// the daemon has. Package process is that process; packages pam, gssapi and nss
// say what is asked of it, each in messages of its own.
//
// The two talk over a Unix socket of packets, and each checks by SO_PEERCRED
// whom it talks to. The helper is started by systemd and found at a path, or
// started and kept running by Client.Run. Whatever goes wrong with it is an
// error that says nothing about a person.
package helper
