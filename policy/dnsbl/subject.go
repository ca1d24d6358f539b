package dnsbl

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// subject is what a list is asked about.
type subject struct {
	class string // as replies name it
	needs mail.Phase
	names bool // the list is one of names
	// of returns what is asked about as replies show it, and the label under
	// which the list is asked; "" asks nothing.
	of func(tx *mail.Transaction) (what, label string)
}

// The subjects.
var (
	clientAddresses = subject{class: "Client host", needs: mail.PhaseConnect, of: func(tx *mail.Transaction) (string, string) {
		a := tx.Client.Remote.Addr()
		if !a.IsValid() {
			return "", ""
		}
		return plainAddress(a).String(), reversed(plainAddress(a))
	}}
	clientNames = subject{class: "Client host", needs: mail.PhaseConnect, names: true, of: func(tx *mail.Transaction) (string, string) {
		return tx.Client.Hostname, nameLabel(tx.Client.Hostname)
	}}
	reverseNames = subject{class: "Unverified Client host", needs: mail.PhaseConnect, names: true, of: func(tx *mail.Transaction) (string, string) {
		return tx.Client.ReverseName, nameLabel(tx.Client.ReverseName)
	}}
	heloNames = subject{class: "Helo command", needs: mail.PhaseHelo, names: true, of: func(tx *mail.Transaction) (string, string) {
		return tx.Client.Helo, nameLabel(tx.Client.Helo)
	}}
	senders = subject{class: "Sender address", needs: mail.PhaseMail, names: true, of: func(tx *mail.Transaction) (string, string) {
		return tx.Envelope.ReversePath.String(), nameLabel(string(tx.Envelope.ReversePath.Domain))
	}}
	recipients = subject{class: "Recipient address", needs: mail.PhaseRecipient, names: true, of: func(tx *mail.Transaction) (string, string) {
		return recipientOf(tx).String(), nameLabel(string(recipientOf(tx).Domain))
	}}
)

// reversed is an address as lists are asked about it: its octets, or the
// nibbles of IPv6, from the last to the first.
func reversed(a netip.Addr) string {
	var parts []string
	if a.Is4() {
		for _, b := range a.As4() {
			parts = append(parts, strconv.Itoa(int(b)))
		}
	} else {
		octets := a.As16()
		parts = strings.Split(hex.EncodeToString(octets[:]), "")
	}
	slices.Reverse(parts)
	return strings.Join(parts, ".")
}

// nameLabel is a name as lists are asked about it, or "" for what is no name:
// addresses and literals are not in lists of names.
func nameLabel(name string) string {
	domain, err := mail.ParseDomain(strings.TrimSuffix(name, "."))
	if err != nil || domain.IsLiteral() || strings.Trim(string(domain), "0123456789.") == "" {
		return ""
	}
	return strings.ToLower(string(domain))
}
