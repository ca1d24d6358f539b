package delivery

import (
	"errors"
	"io"

	"github.com/postern-mail/postern/delivery/sevenbit"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// downgrade makes m fit for a server of SMTP that does not offer 8BITMIME: what
// holds octets above 127 is converted (RFC 6152 section 3). content is read up
// to three times, so that the size of what is sent is known beforehand.
//
// The error is status.PeerNo8BitMIME where that would break a signature:
// another host may still take the message.
func (p *Pool) downgrade(m *smtp.ClientMessage, c *smtp.Client, content mail.Content, id mail.QueueID) error {
	if _, offered := c.Extension("8BITMIME"); offered || p.cfg.Client.LMTP || p.cfg.keepEightBit {
		return nil
	}
	conversion, err := sevenbit.Look(content)
	switch {
	case errors.Is(err, sevenbit.ErrSigned), errors.Is(err, sevenbit.ErrIntricate):
		return status.New(status.PeerNo8BitMIME, err)
	case err != nil:
		return status.New(status.StoreDown, err)
	}
	if err := rewind(content); err != nil || !conversion.Needed() {
		return err
	}
	octets, err := io.Copy(io.Discard, conversion.Reader(content))
	if err != nil {
		return status.New(status.StoreDown, err)
	}
	if conversion.BreaksDKIM() {
		p.log.Warn("content is converted for a server without 8BITMIME, and its DKIM signature does not hold there", "qid", id, "remote", c.RemoteAddr())
	}
	m.From.Body, m.Octets, m.Content = mail.Body7Bit, octets, conversion.Reader(content)
	return rewind(content)
}

func rewind(content io.Seeker) error {
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return status.New(status.StoreDown, err)
	}
	return nil
}
