package mailstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Body opens the whole message, trace header first; Meta.Root's offsets count
// in it. The caller closes it. ErrNoMessage when it was expunged meanwhile.
func (m *Mailbox) Body(ctx context.Context, message *Message) (store.Body, error) {
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
			return nil, m.box.account.store.failure("read trace header", err)
		}
	}
	return m.open(ctx, message, trace)
}

// BodyOf is Body for a message whose Meta was read: it is not read again.
func (m *Mailbox) BodyOf(ctx context.Context, message *Message, meta *Meta) (store.Body, error) {
	n := message.Trace()
	if n > int64(len(meta.Header)) {
		return m.Body(ctx, message)
	}
	return m.open(ctx, message, meta.Header[:n])
}

// open opens a message whose trace header is known.
func (m *Mailbox) open(ctx context.Context, message *Message, trace []byte) (store.Body, error) {
	s := m.box.account.store
	if int64(len(trace)) != message.Trace() {
		return nil, status.Errorf(status.StoreDown, "message %d: trace header of %d octets, want %d",
			message.UID, len(trace), message.Trace())
	}
	body, err := s.openBody(ctx, message.Body)
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

// openBody opens a stored body. What is missing or damaged here is fetched from
// the partner, if there is one.
func (s *Store) openBody(ctx context.Context, ref store.Ref) (store.Body, error) {
	body, err := s.blobs.Open(ctx, ref)
	p := s.peer()
	if p == nil {
		return body, err
	}
	if err != nil && ctx.Err() == nil && p.Fetch(ctx, ref) == nil {
		body, err = s.blobs.Open(ctx, ref)
	}
	if err != nil {
		return nil, err
	}
	return &mended{Body: body, store: s, ref: ref}, nil
}

// mended is a body that is fetched from the partner, once, when its octets turn
// out to be damaged while they are read.
type mended struct {
	store.Body
	store *Store
	ref   store.Ref

	mu      sync.Mutex // reads at places may come from several at a time
	fetched bool
	read    int64
}

func (m *mended) Read(p []byte) (int, error) {
	n, err := m.ReadAt(p, m.read)
	m.read += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (m *mended) ReadAt(p []byte, offset int64) (int, error) {
	m.mu.Lock()
	body := m.Body
	m.mu.Unlock()
	n, err := body.ReadAt(p, offset)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if body = m.mend(body); body == nil {
		return n, err
	}
	more, err := body.ReadAt(p[n:], offset+int64(n))
	return n + more, err
}

// mend returns another body in the place of the one that could not be read, nil
// when there is none.
func (m *mended) mend(damaged store.Body) store.Body {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Body != damaged {
		return m.Body
	}
	if m.fetched {
		return nil
	}
	m.fetched = true
	ctx, cancel := context.WithTimeout(context.Background(), m.store.cfg.CommitTimeout)
	defer cancel()
	if m.store.peer().Fetch(ctx, m.ref) != nil {
		return nil
	}
	body, err := m.store.blobs.Open(ctx, m.ref)
	if err != nil {
		return nil
	}
	_ = damaged.Close() // it is of no use, whatever it says
	m.Body = body
	return body
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
