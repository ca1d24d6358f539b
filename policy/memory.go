package policy

import (
	"context"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// memory remembers, for the evaluation of one command, who its recipient
// stands for: the directory is asked once, however many stages and the
// envelope want to know.
type memory struct {
	address    mail.Address
	from       *mail.Poster // who sends; nil asks for anybody
	about      subject      // of the list that is being asked
	ring       *ring        // the session's
	asked      bool
	recipients []mail.Recipient
	err        error
}

type memoryKey struct{}

// of returns the recipients remembered for tx's recipient, or nil.
func (m *memory) of(tx *mail.Transaction) []mail.Recipient {
	if tx.Recipient == nil || !m.asked || m.address != tx.Recipient.Address || m.err != nil {
		return nil
	}
	return m.recipients
}

// resolve asks the directory, or the memory in ctx.
func resolve(ctx context.Context, directory Recipients, address mail.Address) ([]mail.Recipient, error) {
	m, ok := ctx.Value(memoryKey{}).(*memory)
	if !ok {
		m = &memory{}
	}
	if !m.asked || m.address != address {
		m.address, m.asked = address, true
		m.recipients, m.err = directory.Resolve(ctx, address, m.from)
		if m.err == nil && len(m.recipients) == 0 {
			m.err = status.Errorf(status.ConfigurationError, "directory resolved %s to nobody", address)
		}
	}
	return m.recipients, m.err
}

// listed tells whether an address in a domain of ours exists. missing is the
// permanent reason why not; err that nobody knows.
func listed(ctx context.Context, directory Recipients, address mail.Address) (missing *status.Error, err error) {
	_, err = resolve(ctx, directory, address)
	if err == nil {
		return nil, nil
	}
	reason := status.Of(err)
	if !reason.Permanent() {
		return nil, err
	}
	// RFC 5321 section 4.5.1: each domain has a postmaster. Where the
	// directory knows none, the session sends its mail to ours.
	if reason == status.NoSuchUser && strings.EqualFold(string(address.Local), string(mail.Postmaster)) {
		return nil, nil
	}
	return status.New(reason, err), nil
}
