package mailstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Body opens the whole message, trace header first; Meta.Root's offsets count
// in it. The caller closes it. ErrNoMessage when it was expunged meanwhile.
func (m *Mailbox) Body(ctx context.Context, message *Message) (store.Body, error) {
	s := m.box.account.store
	var trace []byte
	if message.Trace() > 0 {
		records, err := m.box.readMeta(ctx, []*Message{message})
		if err != nil {
			return nil, err
		}
		if records[0] == nil {
			return nil, ErrNoMessage
		}
		if trace, _, err = decodeMeta(records[0]); err != nil {
			return nil, s.failure("read trace header", err)
		}
		if int64(len(trace)) != message.Trace() {
			return nil, status.Errorf(status.StoreDown, "message %d: trace header of %d octets, want %d",
				message.UID, len(trace), message.Trace())
		}
	}
	body, err := s.blobs.Open(ctx, message.Body)
	if errors.Is(err, store.ErrNotFound) {
		if _, ok := m.box.current().list.find(message.UID); !ok {
			return nil, ErrNoMessage
		}
		return nil, status.Errorf(status.StoreDown, "body of message %d: %w", message.UID, err)
	}
	if err != nil {
		return nil, s.failure("open body", err)
	}
	if len(trace) == 0 {
		return body, nil
	}
	return &traced{Body: body, trace: trace}, nil
}

// traced is a body with a trace header before it.
type traced struct {
	store.Body
	trace []byte
	read  int64
}

func (t *traced) Size() int64 { return int64(len(t.trace)) + t.Body.Size() }

func (t *traced) Read(p []byte) (int, error) {
	if t.read < int64(len(t.trace)) {
		n := copy(p, t.trace[t.read:])
		t.read += int64(n)
		return n, nil
	}
	return t.Body.Read(p)
}

func (t *traced) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, fmt.Errorf("read body at %d: %w", offset, errors.ErrUnsupported)
	}
	n := 0
	if offset < int64(len(t.trace)) {
		n = copy(p, t.trace[offset:])
		if n == len(p) {
			return n, nil
		}
	}
	more, err := t.Body.ReadAt(p[n:], offset+int64(n)-int64(len(t.trace)))
	return n + more, err
}

var _ io.ReaderAt = (*traced)(nil)
