package mailstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/store"
)

// CompletePreviews makes the previews that Metas of an earlier release lack,
// from the bodies, and keeps them for the next time. metas are those of list,
// in order, nil for messages that are gone. What cannot be kept now is made
// again another time.
func (m *Mailbox) CompletePreviews(ctx context.Context, list []*Message, metas []*Meta) error {
	var made []*Message
	previews := make(map[Dot][]byte)
	for i, meta := range metas {
		if meta == nil || !meta.NoPreview {
			continue
		}
		found, err := m.preview(ctx, list[i])
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return m.box.account.store.failure("read the text of a message", err)
		}
		meta.Preview, meta.NoPreview = found, false
		made = append(made, list[i])
		previews[list[i].Dot] = found
	}
	for some := range slices.Chunk(made, previewsPerCommit) {
		err := m.box.account.changeAlone(ctx, func(t *txn) error { return t.keepPreviews(m.box, some, previews) })
		if err != nil {
			m.box.account.store.log.Debug("cannot keep previews", "account", m.box.account.name, "err", err)
			break
		}
	}
	return nil
}

// previewsPerCommit keeps a commit of records that are as large as can be
// within its bounds.
const previewsPerCommit = 20

// preview reads as much of a body as its preview needs.
func (m *Mailbox) preview(ctx context.Context, message *Message) ([]byte, error) {
	body, err := m.box.account.store.openBody(ctx, message.Body)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	scanner := mime.NewScanner()
	step := make([]byte, 32<<10)
	for {
		n, err := body.Read(step)
		_, _ = scanner.Write(step[:n]) // it never fails
		if errors.Is(err, io.EOF) || scanner.HasPreview() {
			return scanner.Result().Preview, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// keepPreviews puts previews into the records of those messages that are still
// there and still lack theirs. Neither clients nor the partner see a change.
func (t *txn) keepPreviews(b *box, list []*Message, previews map[Dot][]byte) error {
	v := t.peek(b)
	if v.gone || !v.loaded {
		return nil
	}
	return t.account.store.kv.View(t.ctx, func(snap store.Snapshot) error {
		for _, message := range list {
			i, ok := v.list.find(message.UID)
			if !ok || v.list.at(i).Dot != message.Dot {
				continue
			}
			key := messageKey(t.account.id, kindMeta, b.guid, message.UID)
			record, err := snap.Get(key)
			if errors.Is(err, store.ErrNotFound) || err == nil && !lacksPreview(record) {
				continue
			}
			if err != nil {
				return err
			}
			if with := withPreview(record, previews[message.Dot]); len(with) <= maxMetaOctets {
				t.batch.Put(key, with)
				t.adds = true // it can wait for room
			}
		}
		return nil
	})
}

// withPreview is a record of the first release as the present one writes it.
func withPreview(record, preview []byte) []byte {
	record = appendBlock(bytes.Clone(record), preview)
	record[0] = metaVersion
	return record
}
