package replica

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// The keys, behind the tag:
//
//	l           links: version, own origin, number of the last; partner's origin
//	            and the number of its last
//	t           why this incarnation is stale: version, own origin, text
//	p <account> paused; without an account, all of them
//	q <account> in quarantine: version, time, text
//	s           when all bodies were last read: version, time
//	f <origin>  a partner that was forgotten and must not come back: version
//	v <account> last comparison with the partner: version, time, result
const memoryTag = 'r'

const memoryVersion = 1

var errMemory = errors.New("malformed record of replication")

// memory is what a node remembers beside the mail.
type memory struct {
	kv  store.Store
	own mailstore.Origin

	mu       sync.Mutex
	sessions uint64 // own
	peer     mailstore.Origin
	seen     uint64 // of peer
	stale    string
	all      bool // every account is paused
	paused   map[mailstore.GUID]bool
	poisoned map[mailstore.GUID]string
	verified map[mailstore.GUID]Verification
	scrubbed time.Time

	forgotten map[mailstore.Origin]bool
}

// Verification is the result of the last comparison with the partner.
type Verification struct {
	At   time.Time
	Same bool
}

func memoryKey(kind byte, account mailstore.GUID) []byte {
	return append([]byte{memoryTag, kind}, account[:]...)
}

func openMemory(ctx context.Context, kv store.Store, own mailstore.Origin) (*memory, error) {
	m := &memory{
		kv: kv, own: own, paused: make(map[mailstore.GUID]bool), poisoned: make(map[mailstore.GUID]string),
		verified: make(map[mailstore.GUID]Verification), forgotten: make(map[mailstore.Origin]bool),
	}
	err := store.Scan(ctx, kv, []byte{memoryTag}, []byte{memoryTag + 1}, 1000, func(_ store.Snapshot, key, value []byte) error {
		return m.read(key[1:], value)
	})
	return m, err
}

// read takes in one record.
func (m *memory) read(key, value []byte) error {
	p := parser{b: value}
	if p.byte() != memoryVersion || len(key) == 0 {
		return fmt.Errorf("%w: key %x", errMemory, key)
	}
	var account mailstore.GUID
	copy(account[:], key[1:])
	switch key[0] {
	case 'l':
		origin, sessions := mailstore.Origin(p.uint64()), p.uvarint()
		if origin == m.own {
			m.sessions = sessions
		}
		m.peer, m.seen = mailstore.Origin(p.uint64()), p.uvarint()
	case 't':
		origin, why := mailstore.Origin(p.uint64()), string(p.rest())
		if origin == m.own {
			m.stale = why
		}
	case 'p':
		if len(key) == 1 {
			m.all = true
		} else {
			m.paused[account] = true
		}
	case 'q':
		p.uint64()
		m.poisoned[account] = string(p.rest())
	case 'f':
		if len(key) != 1+8 {
			return fmt.Errorf("%w: key %x", errMemory, key)
		}
		m.forgotten[mailstore.Origin(binary.BigEndian.Uint64(key[1:]))] = true
	case 's':
		m.scrubbed = time.Unix(int64(p.uint64()), 0)
	case 'v':
		m.verified[account] = Verification{At: time.Unix(int64(p.uint64()), 0), Same: p.byte() != 0}
	}
	if err := p.end(); err != nil {
		return fmt.Errorf("%w: key %x", errMemory, key)
	}
	return nil
}

func (m *memory) put(ctx context.Context, key, value []byte) error {
	b := store.NewBatch()
	b.UseReserve = true
	if value == nil {
		b.Delete(key)
	} else {
		b.Put(key, value)
	}
	_, err := m.kv.Commit(ctx, b)
	return err
}

// nextSession numbers a link, durably, before the partner is told.
func (m *memory) nextSession(ctx context.Context) (uint64, error) {
	m.mu.Lock()
	m.sessions++
	value, session := m.linksLocked(), m.sessions
	m.mu.Unlock()
	return session, m.put(ctx, []byte{memoryTag, 'l'}, value)
}

func (m *memory) linksLocked() []byte {
	b := binary.LittleEndian.AppendUint64([]byte{memoryVersion}, uint64(m.own))
	b = binary.AppendUvarint(b, m.sessions)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.peer))
	return binary.AppendUvarint(b, m.seen)
}

// session is the number of the present link.
func (m *memory) session() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions
}

// partner returns the highest number of a link that a partner told, and which.
func (m *memory) partner() (seen uint64, of mailstore.Origin) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen, m.peer
}

func (m *memory) notePartner(ctx context.Context, origin mailstore.Origin, session uint64) error {
	m.mu.Lock()
	m.peer, m.seen = origin, session
	value := m.linksLocked()
	m.mu.Unlock()
	return m.put(ctx, []byte{memoryTag, 'l'}, value)
}

// isForgotten reports whether Forget was called while that one was the partner.
func (m *memory) isForgotten(origin mailstore.Origin) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.forgotten[origin]
}

// Forget notes in the store of a stopped node that its partner is gone for good:
// should that one come back with what it had, it is refused. own is the node's
// origin. Nothing is noted where there never was a partner.
func Forget(ctx context.Context, kv store.Store, own mailstore.Origin) error {
	m, err := openMemory(ctx, kv, own)
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	_, peer := m.partner()
	if peer == 0 {
		return nil
	}
	key := binary.BigEndian.AppendUint64([]byte{memoryTag, 'f'}, uint64(peer))
	if err := m.put(ctx, key, []byte{memoryVersion}); err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return nil
}

func (m *memory) staleWhy() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stale
}

func (m *memory) setStale(ctx context.Context, why string) error {
	m.mu.Lock()
	m.stale = why
	m.mu.Unlock()
	b := binary.LittleEndian.AppendUint64([]byte{memoryVersion}, uint64(m.own))
	return m.put(ctx, []byte{memoryTag, 't'}, append(b, why...))
}

func (m *memory) isPaused(account mailstore.GUID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all || m.paused[account]
}

// pause remembers a pause, or its end; of every account when it is nil, and the
// end of that is the end of all.
func (m *memory) pause(ctx context.Context, account *mailstore.GUID, on bool) error {
	b := store.NewBatch()
	b.UseReserve = true
	m.mu.Lock()
	switch {
	case account != nil && on:
		m.paused[*account] = true
		b.Put(memoryKey('p', *account), []byte{memoryVersion})
	case account != nil:
		delete(m.paused, *account)
		b.Delete(memoryKey('p', *account))
	case on:
		m.all = true
		b.Put([]byte{memoryTag, 'p'}, []byte{memoryVersion})
	default:
		m.all = false
		clear(m.paused)
		b.DeleteRange([]byte{memoryTag, 'p'}, []byte{memoryTag, 'p' + 1})
	}
	m.mu.Unlock()
	_, err := m.kv.Commit(ctx, b)
	return err
}

func (m *memory) quarantined(account mailstore.GUID) (why string, is bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	why, is = m.poisoned[account]
	return why, is
}

// quarantine remembers why an account is not replicated; "" ends it.
func (m *memory) quarantine(ctx context.Context, account mailstore.GUID, why string) error {
	m.mu.Lock()
	var value []byte
	if why == "" {
		delete(m.poisoned, account)
	} else {
		m.poisoned[account] = why
		value = binary.LittleEndian.AppendUint64([]byte{memoryVersion}, uint64(time.Now().Unix()))
		value = append(value, why...)
	}
	m.mu.Unlock()
	return m.put(ctx, memoryKey('q', account), bytes.Clone(value))
}

// kept returns which accounts are paused and which are in quarantine.
func (m *memory) kept() (all bool, paused map[mailstore.GUID]bool, poisoned map[mailstore.GUID]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all, maps.Clone(m.paused), maps.Clone(m.poisoned)
}

func (m *memory) noteVerified(ctx context.Context, account mailstore.GUID, v Verification) error {
	m.mu.Lock()
	m.verified[account] = v
	m.mu.Unlock()
	b := binary.LittleEndian.AppendUint64([]byte{memoryVersion}, uint64(v.At.Unix()))
	return m.put(ctx, memoryKey('v', account), append(b, boolByte(v.Same)))
}

func (m *memory) lastVerified(account mailstore.GUID) Verification {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.verified[account]
}
