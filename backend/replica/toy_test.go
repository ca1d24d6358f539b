package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// toyDisk is a node's bodies, and the parts that came of some.
type toyDisk struct {
	bodies map[store.Hash][]byte
	parts  map[store.Hash][]byte
	sent   map[store.Hash]bool
	full   error // what Part answers
}

func newToyDisk() *toyDisk {
	return &toyDisk{bodies: map[store.Hash][]byte{}, parts: map[store.Hash][]byte{}, sent: map[store.Hash]bool{}}
}

func (d *toyDisk) put(octets []byte) store.Ref {
	hash := store.Hash(sha256.Sum256(octets))
	d.bodies[hash] = octets
	return store.Ref{Hash: hash, Octets: int64(len(octets))}
}

func (d *toyDisk) Open(_ context.Context, ref store.Ref) (store.Body, error) {
	octets, ok := d.bodies[ref.Hash]
	if !ok {
		return nil, store.ErrNotFound
	}
	return toyBody{bytes.NewReader(octets)}, nil
}

func (d *toyDisk) Stage(_ context.Context, r io.Reader) (store.Staged, error) {
	octets, err := io.ReadAll(r)
	return toyStaged{octets}, err
}

func (d *toyDisk) Part(ref store.Ref, offset int64, octets []byte) (int64, error) {
	if d.full != nil {
		return 0, d.full
	}
	have := d.parts[ref.Hash]
	if offset <= int64(len(have)) && offset+int64(len(octets)) > int64(len(have)) {
		d.parts[ref.Hash] = append(have[:offset:offset], octets...)
	}
	return int64(len(d.parts[ref.Hash])), nil
}

func (d *toyDisk) Parts(ref store.Ref) int64 { return int64(len(d.parts[ref.Hash])) }

func (d *toyDisk) Join(_ context.Context, ref store.Ref) (store.Staged, error) {
	octets := d.parts[ref.Hash]
	delete(d.parts, ref.Hash)
	if sha256.Sum256(octets) != ref.Hash {
		return nil, ErrParts
	}
	return toyStaged{octets}, nil
}

func (d *toyDisk) Sent(h store.Hash) bool {
	was := d.sent[h]
	d.sent[h] = true
	return was
}

type toyBody struct{ *bytes.Reader }

func (toyBody) Close() error { return nil }

type toyStaged struct{ octets []byte }

func (s toyStaged) Ref() store.Ref {
	return store.Ref{Hash: sha256.Sum256(s.octets), Octets: int64(len(s.octets))}
}
func (s toyStaged) Octets() int64             { return int64(len(s.octets)) }
func (s toyStaged) Open() (store.Body, error) { return toyBody{bytes.NewReader(s.octets)}, nil }
func (s toyStaged) Discard()                  {}

// toyAccount keeps a set of bodies, each added by one record.
type toyAccount struct {
	disk     *toyDisk
	origin   mailstore.Origin
	journal  []Record
	chain    [32]byte
	peer     VectorEntry
	home     Home
	has      map[store.Hash]bool
	link     string
	fail     error // what the next Apply answers
	acked    uint64
	forgot   uint64 // the journal begins behind it
	attaches int
	pulls    []bool // whether each merge was deep
	merging  bool   // a merge was broken off
}

func newToyAccount(node uint16) *toyAccount {
	return &toyAccount{
		disk: newToyDisk(), origin: mailstore.Origin(node)<<48 | 7, has: map[store.Hash]bool{}, link: "detached",
	}
}

func chained(chain [32]byte, raw []byte) [32]byte {
	return sha256.Sum256(append(chain[:], raw...))
}

// commit adds a body by a record of its own.
func (a *toyAccount) commit(octets []byte) uint64 {
	ref := a.disk.put(octets)
	seq := uint64(len(a.journal) + 1)
	raw := append(binary.BigEndian.AppendUint64(nil, seq), ref.Hash[:]...)
	a.journal = append(a.journal, Record{First: seq, Last: seq, Raw: raw, Bodies: []store.Ref{ref}})
	a.chain = chained(a.chain, raw)
	a.has[ref.Hash] = true
	return seq
}

func (a *toyAccount) Position(context.Context) (Position, error) {
	p := Position{Origin: a.origin, Home: a.home, StreamFrom: a.forgot + 1, Digest: a.digest(), Settled: true, Merging: a.merging}
	if n := len(a.journal); n > 0 {
		p.Vector = append(p.Vector, VectorEntry{Origin: a.origin, Seq: uint64(n), Chain: a.chain})
	}
	if a.peer.Seq > 0 {
		p.Vector = append(p.Vector, a.peer)
	}
	return p, nil
}

func (a *toyAccount) digest() (d Digest) {
	for hash := range a.has {
		for i := range d {
			d[i] += hash[i]
		}
	}
	return d
}

func (a *toyAccount) BeginAttach(ctx context.Context) (Position, error) {
	a.link = "pending"
	return a.Position(ctx)
}

func (a *toyAccount) Attached(_ context.Context, peer Position) error {
	if a.link != "pending" {
		return fmt.Errorf("attached while %s", a.link)
	}
	a.home = merged(a.home, peer.Home)
	a.link = "attached"
	a.attaches++
	return nil
}

func (a *toyAccount) Detach(context.Context) error { a.link = "detached"; return nil }

func (a *toyAccount) Journal(_ context.Context, after uint64, maxOctets int) ([]Record, error) {
	if after < a.forgot {
		return nil, mailstore.ErrTruncated
	}
	var out []Record
	for _, r := range a.journal[min(after, uint64(len(a.journal))):] {
		if maxOctets -= len(r.Raw); maxOctets < 0 && len(out) > 0 {
			break
		}
		out = append(out, r)
	}
	return out, nil
}

func (a *toyAccount) Missing(_ context.Context, refs []store.Ref) (missing []store.Ref, _ error) {
	for _, ref := range refs {
		if _, ok := a.disk.bodies[ref.Hash]; !ok {
			missing = append(missing, ref)
		}
	}
	return missing, nil
}

func (a *toyAccount) Apply(_ context.Context, raw [][]byte, bodies map[store.Hash]store.Staged, gone Gone) (Applied, error) {
	if err := a.fail; err != nil {
		a.fail = nil
		return Applied{}, err
	}
	isGone := func(r []byte) bool {
		last, ok := gone[store.Hash(r[8:])]
		return ok && binary.BigEndian.Uint64(r) <= last
	}
	for _, r := range raw {
		if seq := binary.BigEndian.Uint64(r); seq != a.peer.Seq+1 {
			return Applied{}, mailstore.ErrGap
		}
		hash := store.Hash(r[8:])
		if s, ok := bodies[hash].(toyStaged); ok {
			a.disk.bodies[hash] = s.octets
		} else if _, ok := a.disk.bodies[hash]; !ok && !isGone(r) {
			return Applied{}, &MissingBodies{Refs: []store.Ref{{Hash: hash}}}
		}
		if !isGone(r) {
			a.has[hash] = true
		}
		a.peer.Seq++
		a.peer.Chain = chained(a.peer.Chain, r)
	}
	a.peer.Origin = a.origin ^ 1<<48
	p, _ := a.Position(context.Background())
	return Applied{Seq: uint64(len(a.journal)), Vector: p.Vector, Digest: p.Digest, Settled: true}, nil
}

func (a *toyAccount) Acked(_ context.Context, ack Ack) error { a.acked = ack.Seq; return nil }

func (a *toyAccount) SetHome(_ context.Context, class uint8) error {
	a.home = Home{Epoch: a.home.Epoch + 1, Class: class}
	return nil
}

func (a *toyAccount) Pull(_ context.Context, deep bool) (Puller, error) {
	a.pulls = append(a.pulls, deep)
	return &toyPuller{account: a}, nil
}

// Answer tells everything there is.
func (a *toyAccount) Answer(context.Context, []byte) ([]byte, error) {
	p, _ := a.Position(context.Background())
	b := appendPosition(nil, &p)
	for hash := range a.has {
		b = appendRef(b, store.Ref{Hash: hash, Octets: int64(len(a.disk.bodies[hash]))})
	}
	return b, nil
}

func (a *toyAccount) Damaged(context.Context) ([]string, error) { return nil, nil }

func (a *toyAccount) Joined(context.Context) error { a.merging = false; return nil }

type toyPuller struct {
	account *toyAccount
	peer    Position
	refs    []store.Ref
	ended   bool
}

func (p *toyPuller) Query(context.Context) ([]byte, error) {
	if p.ended {
		return nil, nil
	}
	return []byte("all"), nil
}

func (p *toyPuller) Take(ctx context.Context, answer []byte) ([]store.Ref, error) {
	in := parser{b: answer}
	p.peer = in.position()
	for len(in.b) > 0 {
		p.refs = append(p.refs, in.ref())
	}
	if in.bad {
		return nil, mailstore.ErrMalformed
	}
	need, _ := p.account.Missing(ctx, p.refs)
	if len(need) == 0 {
		return nil, p.Give(ctx, nil, nil)
	}
	return need, nil
}

func (p *toyPuller) Give(_ context.Context, bodies map[store.Hash]store.Staged, gone Gone) error {
	for _, ref := range p.refs {
		if s, ok := bodies[ref.Hash].(toyStaged); ok {
			p.account.disk.bodies[ref.Hash] = s.octets
		}
		_, isGone := gone[ref.Hash]
		p.account.has[ref.Hash] = !isGone
	}
	for _, e := range p.peer.Vector {
		if e.Origin == p.peer.Origin {
			p.account.peer = e
		}
	}
	p.ended = true
	return nil
}

func (p *toyPuller) Applied() Applied {
	pos, _ := p.account.Position(context.Background())
	return Applied{Seq: uint64(len(p.account.journal)), Vector: pos.Vector, Digest: pos.Digest, Settled: true}
}

func (a *toyAccount) Refers(_ context.Context, ref store.Ref) (bool, error) {
	return a.has[ref.Hash], nil
}

// toyNode is one end of a toy pair; what it sends waits in its queues.
type toyNode struct {
	*Channel
	t        *testing.T
	account  *toyAccount
	queues   [Classes][]Frame
	narrow   bool // no room for more than one body frame
	told     []string
	failures int
	sends    int
	durable  uint64
}

func (n *toyNode) Send(class Class, kind Kind, payload []byte) {
	n.sends++
	n.queues[class] = append(n.queues[class], Frame{Class: class, Kind: kind, Payload: payload})
}
func (n *toyNode) Room(class Class) bool { return !n.narrow || len(n.queues[class]) == 0 }
func (n *toyNode) Wake(time.Time)        {}

func (n *toyNode) Durable(_ mailstore.GUID, seq uint64)            { n.durable = seq }
func (n *toyNode) Applied(mailstore.GUID, int, Applied)            {}
func (n *toyNode) Pulled(mailstore.GUID, Applied)                  {}
func (n *toyNode) Joined(mailstore.GUID)                           {}
func (n *toyNode) Differs(mailstore.GUID)                          { n.told = append(n.told, "differs") }
func (n *toyNode) Failed(_ mailstore.GUID, what string, err error) { n.failures++; n.t.Log(what, err) }
func (n *toyNode) Quarantined(_ mailstore.GUID, raw []byte, _ error) {
	n.told = append(n.told, fmt.Sprintf("quarantined %d octets", len(raw)))
}
func (n *toyNode) Stale(_ mailstore.GUID, own bool) {
	n.told = append(n.told, fmt.Sprintf("stale own=%v", own))
}

type toyPair struct {
	t     *testing.T
	nodes [2]*toyNode
	now   time.Time
}

func newToyPair(t *testing.T) *toyPair {
	p := &toyPair{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	for i := range p.nodes {
		n := &toyNode{t: t, account: newToyAccount(uint16(i))}
		n.Channel = NewChannel(ChannelConfig{
			Name: "anna", Class: uint8(i), Account: n.account, Bodies: n.account.disk, Out: n, Events: n,
			Limits: Limits{FrameOctets: 4 << 10, WindowOctets: 16 << 10, SmallOctets: 1 << 10, PartOctets: 2 << 10},
		})
		p.nodes[i] = n
	}
	return p
}

func (p *toyPair) up() {
	for i, n := range p.nodes {
		n.Tick(p.now)
		n.LinkUp(Peer{Node: uint16(1 - i)})
	}
}

func (p *toyPair) down() {
	for _, n := range p.nodes {
		n.queues = [Classes][]Frame{}
		clear(n.account.disk.sent)
		n.LinkDown(context.Background())
	}
}

// step lets one node work, or one frame arrive; false when there is nothing.
func (p *toyPair) step(r *rand.Rand) bool {
	for _, i := range r.Perm(2 * (Classes + 1)) {
		n, other, class := p.nodes[i&1], p.nodes[1-i&1], i>>1
		n.Tick(p.now)
		if class == Classes {
			sends, state := n.sends, n.state
			more := n.Work(context.Background())
			if more || n.sends != sends || n.state != state {
				return true
			}
			continue
		}
		if q := other.queues[class]; len(q) > 0 {
			other.queues[class] = q[1:]
			n.Frame(context.Background(), q[0].Kind, q[0].Payload)
			return true
		}
	}
	return false
}

func (p *toyPair) settle(r *rand.Rand) {
	p.t.Helper()
	for range 100_000 {
		if !p.step(r) {
			return
		}
	}
	p.t.Fatal("the pair does not come to rest")
}

func (p *toyPair) same() {
	p.t.Helper()
	a, b := p.nodes[0].account, p.nodes[1].account
	if !maps.Equal(a.has, b.has) || len(a.has) == 0 {
		for i, n := range p.nodes {
			p.t.Logf("node %d: %v, sends %+v, receives %+v, told %v", i, n.state, n.tx, n.rx, n.told)
		}
		p.t.Fatalf("one has %d, the other %d bodies", len(a.has), len(b.has))
	}
	for hash := range a.has {
		if !bytes.Equal(a.disk.bodies[hash], b.disk.bodies[hash]) {
			p.t.Fatalf("body %x differs", hash[:4])
		}
	}
	for i, n := range p.nodes {
		if n.durable != uint64(len(n.account.journal)) {
			p.t.Fatalf("node %d: %d of %d durable", i, n.durable, len(n.account.journal))
		}
	}
}

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 17)) }

// TestRandomCuts lets both sides commit bodies of all sizes over a link that is
// cut at any time; frames of different classes overtake each other.
func TestRandomCuts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		r := seeded(seed)
		p := newToyPair(t)
		p.nodes[0].narrow = seed%2 == 0
		linked := false
		for range 300 {
			switch x := r.IntN(20); {
			case x < 4:
				n := p.nodes[r.IntN(2)]
				size := []int{0, 100, 900, 3000, 9000, 40_000}[r.IntN(6)]
				octets := bytes.Repeat([]byte{byte(r.IntN(256)), byte(r.IntN(256))}, size/2)
				n.Tick(p.now)
				n.Committed(n.account.commit(octets))
			case x == 4:
				linked = !linked
				if linked {
					p.up()
				} else {
					p.down()
				}
			case x == 5:
				p.now = p.now.Add(time.Duration(r.IntN(5000)) * time.Millisecond)
			default:
				p.step(r)
			}
		}
		if !linked {
			p.up()
		}
		for range 20 {
			p.settle(r)
			p.now = p.now.Add(time.Minute)
		}
		for i, n := range p.nodes {
			if n.state != Attached && len(n.account.journal) > 0 {
				t.Fatalf("seed %d: node %d is %v", seed, i, n.state)
			}
			if slices.Contains(n.told, "differs") || n.failures > 0 {
				t.Fatalf("seed %d: node %d: %v, %d failures", seed, i, n.told, n.failures)
			}
		}
		p.same()
	}
}

func TestBodyDamagedAtTheSender(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	a := p.nodes[0].account
	p.nodes[0].Committed(a.commit([]byte("small")))
	p.nodes[0].Committed(a.commit(bytes.Repeat([]byte("large"), 3000)))
	lost := a.journal[1].Bodies[0]
	octets := a.disk.bodies[lost.Hash]
	delete(a.disk.bodies, lost.Hash)
	p.up()
	p.settle(seeded(1))
	if b := p.nodes[1].account; len(b.has) != 1 {
		t.Fatalf("%d bodies: the damaged one must be waited for", len(b.has))
	}
	a.disk.bodies[lost.Hash] = octets // repaired
	p.now = p.now.Add(time.Minute)
	p.settle(seeded(1))
	p.same()
}

func TestBodyExpungedBeforeItWasSent(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	a := p.nodes[0].account
	p.nodes[0].Committed(a.commit([]byte("small")))
	gone := a.journal[0].Bodies[0].Hash
	delete(a.disk.bodies, gone)
	delete(a.has, gone)
	p.nodes[0].Committed(a.commit([]byte("kept")))
	p.up()
	p.settle(seeded(1))
	p.same()
}

// TestBodyThatCameBack: a body was gone when the partner was asked for it, and a
// message with the same body was added before what waited could be applied.
func TestBodyThatCameBack(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 3000} { // the body comes with the record, or is asked for
		p := newToyPair(t)
		a := p.nodes[0].account
		damaged, back := bytes.Repeat([]byte("large"), 4000), bytes.Repeat([]byte("again"), size)
		for _, body := range [][]byte{damaged, back} {
			p.nodes[0].Committed(a.commit(body))
		}
		damagedHash, hash := a.journal[0].Bodies[0].Hash, a.journal[1].Bodies[0].Hash
		delete(a.disk.bodies, damagedHash)
		delete(a.disk.bodies, hash)
		delete(a.has, hash)
		p.up()
		p.settle(seeded(1))
		if n := p.nodes[1]; len(n.rx.gone) != 1 || len(n.rx.held) != 2 {
			t.Fatalf("%d bodies are gone, %d records wait", len(n.rx.gone), len(n.rx.held))
		}
		p.nodes[0].Committed(a.commit(back))
		p.settle(seeded(1))
		a.disk.bodies[damagedHash] = damaged // repaired
		p.now = p.now.Add(time.Minute)
		p.settle(seeded(1))
		p.same()
		if n := p.nodes[1]; len(n.account.pulls) > 0 {
			t.Error("the message was left out: it took a merge to bring it")
		} else if len(n.rx.gone) > 0 || len(n.rx.staged) > 0 {
			t.Errorf("%d bodies are kept as gone, %d as staged", len(n.rx.gone), len(n.rx.staged))
		}
	}
}

func TestStaleIncarnation(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	for _, n := range p.nodes {
		n.Committed(n.account.commit([]byte(fmt.Sprint("of ", n.account.origin))))
	}
	p.up()
	p.settle(seeded(1))
	p.down()
	// Node 1 comes back from a backup of before.
	restored := p.nodes[1].account
	restored.journal, restored.chain = nil, [32]byte{}
	p.up()
	p.nodes[0].Committed(p.nodes[0].account.commit([]byte("more")))
	p.settle(seeded(1))
	if !slices.Contains(p.nodes[1].told, "stale own=true") || !slices.Contains(p.nodes[0].told, "stale own=false") {
		t.Fatalf("told %v and %v", p.nodes[0].told, p.nodes[1].told)
	}
	if p.nodes[0].state == Attached || p.nodes[1].state == Attached {
		t.Fatal("attached to a stale incarnation")
	}
}

func TestQuarantineAndResume(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	p.nodes[1].account.fail = fmt.Errorf("op 99: %w", mailstore.ErrMalformed)
	p.nodes[0].Committed(p.nodes[0].account.commit([]byte("poison")))
	p.up()
	p.settle(seeded(1))
	if len(p.nodes[1].told) != 1 || p.nodes[1].poisoned == "" || p.nodes[1].state != Unattached {
		t.Fatalf("told %v, state %v", p.nodes[1].told, p.nodes[1].state)
	}
	p.nodes[1].Resume()
	p.now = p.now.Add(time.Minute)
	p.settle(seeded(1))
	p.same()
}

func TestStoreFull(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	p.nodes[1].account.fail = store.ErrFull
	p.nodes[0].Committed(p.nodes[0].account.commit([]byte("large")))
	p.up()
	p.settle(seeded(1))
	if p.nodes[1].state != Attached || !p.nodes[0].tx.peerBlocked {
		t.Fatalf("state %v, blocked %v", p.nodes[1].state, p.nodes[0].tx.peerBlocked)
	}
	p.now = p.now.Add(time.Minute)
	p.settle(seeded(1))
	p.same()
}

func TestPause(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	p.up()
	p.nodes[1].Pause(context.Background())
	p.nodes[0].Committed(p.nodes[0].account.commit([]byte("one")))
	p.settle(seeded(1))
	if p.nodes[0].state != Unattached || p.nodes[0].account.link != "detached" {
		t.Fatalf("state %v, %s", p.nodes[0].state, p.nodes[0].account.link)
	}
	p.nodes[1].Resume()
	p.settle(seeded(1))
	p.same()
}

// TestTruncatedJournal: the partner was away for longer than the journal is
// kept.
func TestTruncatedJournal(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	a, b := p.nodes[0].account, p.nodes[1].account
	for i := range 30 {
		p.nodes[0].Committed(a.commit([]byte(fmt.Sprint("old ", i))))
		p.nodes[1].Committed(b.commit([]byte(fmt.Sprint("theirs ", i))))
	}
	a.forgot = 20
	p.up()
	p.nodes[0].Committed(a.commit(bytes.Repeat([]byte("large"), 3000)))
	p.settle(seeded(1))
	p.same()
}

// TestUnfinishedMerge: a merge that an earlier process began is made again.
func TestUnfinishedMerge(t *testing.T) {
	t.Parallel()
	for unfinished := range 2 {
		p := newToyPair(t)
		n := p.nodes[unfinished]
		n.account.merging = true
		n.Committed(n.account.commit([]byte("one")))
		p.up()
		p.settle(seeded(1))
		if n.account.merging {
			t.Errorf("node %d: the merge is as unfinished as before", unfinished)
		}
		p.same()
	}
}

func TestDigestsDiffer(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	a, b := p.nodes[0].account, p.nodes[1].account
	p.nodes[0].Committed(a.commit([]byte("one")))
	p.up()
	p.settle(seeded(1))
	clear(b.has) // a fault of ours
	p.nodes[0].Committed(a.commit([]byte("two")))
	p.settle(seeded(1))
	if !slices.Contains(p.nodes[0].told, "differs") {
		t.Fatal("nobody saw that the two are not the same")
	}
	for range 5 {
		p.now = p.now.Add(time.Hour)
		p.settle(seeded(1))
	}
	if !b.has[a.journal[0].Bodies[0].Hash] {
		t.Fatal("the two are still not the same")
	}
}

// TestHomesDisagree: a forced change of home on one side while the link is down.
func TestHomesDisagree(t *testing.T) {
	t.Parallel()
	for name, homes := range map[string][2]Home{
		"both home":    {{}, {Epoch: 1, Class: 1}},
		"neither home": {{Class: 1}, {Epoch: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newToyPair(t)
			for i, n := range p.nodes {
				n.account.home = homes[i]
				n.Committed(n.account.commit([]byte(fmt.Sprint(i))))
			}
			p.up()
			p.settle(seeded(1))
			p.now = p.now.Add(time.Minute)
			p.settle(seeded(1))
			p.same()
			if p.nodes[0].account.home != homes[1] || p.nodes[1].account.home != homes[1] {
				t.Fatalf("homes %v and %v", p.nodes[0].account.home, p.nodes[1].account.home)
			}
		})
	}
}

func FuzzFrames(f *testing.F) {
	g := greeting{attachment: 3, name: "anna", position: Position{Origin: 7, Vector: Vector{{Origin: 7, Seq: 2}}, Floors: []MailboxFloor{{UID: 4}}}}
	f.Add(uint8(KindAttach), g.encode())
	o := operations{attachment: 3, records: []Record{{First: 1, Last: 2, Raw: []byte("raw"), Bodies: []store.Ref{{Octets: 4}}}}, bodies: []body{{octets: []byte("body")}}}
	f.Add(uint8(KindOps), o.encode())
	a := receipt{attachment: 3, ack: Ack{Seq: 1, Vector: Vector{{Origin: 7, Seq: 2}}}}
	f.Add(uint8(KindAck), a.encode())
	w := part{attachment: 3, ref: store.Ref{Octets: 9}, offset: 2, octets: []byte("part")}
	f.Add(uint8(KindData), w.encode())
	f.Add(uint8(KindDetach), refusal{3, ReasonAgain, "x"}.encode())
	f.Fuzz(func(t *testing.T, kind uint8, payload []byte) {
		if g, err := parseGreeting(payload); err == nil {
			again, err := parseGreeting(g.encode())
			if err != nil || again.attachment != g.attachment || again.name != g.name {
				t.Fatal(errors.Join(err, errors.New("greeting does not come back")))
			}
		}
		p := newToyPair(t)
		p.up()
		n := p.nodes[kind&1]
		n.state, n.attachment = Attached, 3
		n.tx.begin(2, 0)
		n.rx.begin(1<<48|7, 0)
		n.Frame(context.Background(), Kind(kind), payload)
		for range 10 {
			n.Work(context.Background())
		}
	})
}
