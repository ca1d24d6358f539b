package delegation

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// phases are the places in the dialogue that are decided about; others are left
// to who asks.
var phases = map[string]mail.Phase{
	"CONNECT": mail.PhaseConnect, "EHLO": mail.PhaseHelo, "HELO": mail.PhaseHelo, "MAIL": mail.PhaseMail, "RCPT": mail.PhaseRecipient,
	"DATA": mail.PhaseData, "BDAT": mail.PhaseData, "END-OF-MESSAGE": mail.PhaseEndOfData,
}

// maxCounted bounds the recipients that are counted.
const maxCounted = 10_000

// transactionOf makes of attributes what the chain is asked about; nil for a
// place in the dialogue that it knows nothing of.
func transactionOf(all []attribute, listener string) (*mail.Transaction, error) {
	get := make(map[string]string, len(all))
	for _, a := range all {
		get[a.name] = a.value
	}
	if get["request"] != "smtpd_access_policy" {
		return nil, fmt.Errorf("the request is %.50q, not smtpd_access_policy", get["request"])
	}
	phase, known := phases[get["protocol_state"]]
	if !known {
		return nil, nil
	}
	tx := &mail.Transaction{Phase: phase, Started: time.Now(), QueueID: mail.QueueID(get["queue_id"])}
	if err := client(&tx.Client, get, listener); err != nil {
		return nil, err
	}
	if phase < mail.PhaseMail {
		return tx, nil
	}
	return tx, envelope(tx, get)
}

func client(c *mail.Client, get map[string]string, listener string) error {
	ip, err := netip.ParseAddr(get["client_address"])
	if err != nil {
		return fmt.Errorf("the client's address is %.50q", get["client_address"])
	}
	c.Listener = listener
	c.Session = mail.SessionID(get["instance"])
	c.Remote = netip.AddrPortFrom(ip.Unmap(), port(get["client_port"]))
	if ours, err := netip.ParseAddr(get["server_address"]); err == nil {
		c.Local = netip.AddrPortFrom(ours.Unmap(), port(get["server_port"]))
	}
	c.Hostname, c.ReverseName = known(get["client_name"]), known(get["reverse_client_name"])
	c.Helo = get["helo_name"]
	c.Extended = get["protocol_name"] == "ESMTP"
	if login := get["sasl_username"]; login != "" {
		c.Identity = &mail.Identity{Authentication: login, Authorization: login, Mechanism: get["sasl_method"], Verifier: "policy_server"}
	}
	if version := get["encryption_protocol"]; version != "" {
		c.TLS = &mail.TLSInfo{Version: version, Cipher: get["encryption_cipher"], PeerCN: get["ccert_subject"]}
	}
	return nil
}

func known(name string) string {
	if name == unknown {
		return ""
	}
	return name
}

func port(text string) uint16 {
	n, _ := strconv.ParseUint(text, 10, 16) // "unknown" is 0
	return uint16(n)
}

func envelope(tx *mail.Transaction, get map[string]string) error {
	var err error
	if sender := get["sender"]; sender != "" {
		if tx.Envelope.ReversePath, err = readAddress(sender); err != nil {
			return status.New(status.BadSenderSyntax, err)
		}
	}
	size, _ := strconv.ParseInt(get["size"], 10, 64) // 0 where it is not known
	tx.Envelope.DeclaredOctets = max(0, size)
	if tx.Phase == mail.PhaseEndOfData {
		tx.Octets = max(0, size)
	}
	var to mail.Address
	if text := get["recipient"]; text != "" {
		if to, err = readAddress(text); err != nil {
			return status.New(status.BadAddressSyntax, err)
		}
	}
	if tx.Phase == mail.PhaseRecipient {
		if to == (mail.Address{}) {
			return errors.New("a question about RCPT names no recipient")
		}
		tx.Recipient = &mail.Recipient{Address: to, Accepted: to}
		return nil
	}
	n, _ := strconv.Atoi(get["recipient_count"]) // 0 before DATA
	for range min(max(n, 0), maxCounted) {
		tx.Envelope.Recipients = append(tx.Envelope.Recipients, mail.Recipient{Address: to, Accepted: to})
	}
	if len(tx.Envelope.Recipients) == 1 && to != (mail.Address{}) {
		tx.Recipient = &tx.Envelope.Recipients[0]
	}
	return nil
}

// readAddress reads an address. Who asks may take such without a domain, as
// postmaster is.
func readAddress(text string) (mail.Address, error) {
	if !strings.Contains(text, "@") {
		return mail.Address{Local: mail.LocalPart(text)}, nil
	}
	return mail.ParseAddress(text)
}
