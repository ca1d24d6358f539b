package lmtpd

import (
	"testing"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store/storetest"
)

// An account that is still on its way to this node of a pair is an outage, not
// a person who does not exist.
func TestRcptBeforeTheAccountIsHere(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	f := newFixtureOf(t, Config{}, mailstore.Config{Node: 1, Pair: true}, kv, blobs)
	err := rcpt(t, f.begin(t, smtp.MailCommand{}), "kim@example.org")
	if reply := status.ReplyOf(err); reply.Code != 451 || !status.Of(err).Transient() {
		t.Errorf("%v: %+v", err, reply)
	}
}
