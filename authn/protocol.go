package authn

import "strings"

// Protocols are the names by which PAM, Kerberos and host-based access rules
// know what a client speaks.
func Protocols() []string { return []string{"imap", "smtp", "pop", "sieve"} }

// Protocol returns which of Protocols a service is: "imaps" is imap, every
// listener for mail is smtp.
func Protocol(service string) string {
	switch {
	case strings.HasPrefix(service, "imap"):
		return "imap"
	case strings.HasPrefix(service, "pop"):
		return "pop"
	case strings.HasSuffix(service, "sieve"):
		return "sieve"
	}
	return "smtp"
}
