package main

import (
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/mail"
)

// autoexpunged audits what was removed because it was too old for its mailbox.
func (s *server) autoexpunged(account, mailbox string, uids []imap.UID) {
	const perRecord = 500
	for part := range slices.Chunk(uids, perRecord) {
		text := make([]string, len(part))
		for i, uid := range part {
			text[i] = strconv.FormatUint(uint64(uid), 10)
		}
		s.audit.Record(mail.Event{
			Kind: mail.EventExpunge, Service: "autoexpunge", Result: "ok", Login: account, Mailbox: mailbox,
			UIDs: strings.Join(text, ","), Detail: "autoexpunge",
		})
	}
}
