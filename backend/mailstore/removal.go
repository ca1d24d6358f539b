package mailstore

import (
	"context"

	"github.com/emersion/go-imap/v2"
)

// Remove takes messages out of the mailbox whatever their flags, and returns
// their UIDs; those that are gone are passed over. It is Expunge for clients
// that know no \Deleted. A large number is several commits: after an error the
// UIDs returned are gone.
func (m *Mailbox) Remove(ctx context.Context, uids []imap.UID) ([]imap.UID, error) {
	return m.remove(ctx, sortedUIDs(uids), false)
}
