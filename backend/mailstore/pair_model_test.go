package mailstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"pgregory.net/rapid"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store/storetest"
)

// pairModel does at random what clients, gateway and network do to a pair, and
// holds against it what clients were promised.
type pairModel struct {
	*twoNodes
	rt     *rapid.T
	number int
	home   int // the home, once nothing is on its way

	acked     map[string]bool // what was answered OK
	killed    map[string]bool // what a client expunged
	delivered map[string]bool // delivery ids, by the number
	bound     map[imap.UID]string
	highest   [2]imap.UID
	shown     [2]map[imap.UID]bool
	subjects  map[Dot]string
}

func (p *pairModel) text(i int) string { return fmt.Sprintf("Subject: number %d", i) }

func (p *pairModel) add(n int) {
	p.number++
	p.nodes[n].add(p.t, "INBOX", p.number)
	p.acked[p.text(p.number)] = true
}

// deliver gives a queue entry to a node; one in three times to the other, too.
func (p *pairModel) deliver(n int) {
	p.number++
	id := fmt.Sprintf("Q%d.1", p.number)
	both := rapid.IntRange(0, 2).Draw(p.rt, "both") == 0
	p.nodes[n].deliver(p.t, id, p.number)
	if both {
		p.nodes[1-n].deliver(p.t, id, p.number)
		p.delivered[p.text(p.number)] = true
	}
	p.acked[p.text(p.number)] = true
}

func (p *pairModel) pick(n int) (*Mailbox, *Message, string) {
	m, err := p.nodes[n].account.Mailbox(context.Background(), "INBOX")
	p.check(err)
	v := m.View()
	if v.Len() == 0 {
		m.Close()
		return nil, nil, ""
	}
	message := v.At(rapid.IntRange(0, v.Len()-1).Draw(p.rt, "message"))
	return m, message, p.subject(m, message)
}

func (p *pairModel) subject(m *Mailbox, message *Message) string {
	if known, ok := p.subjects[message.Dot]; ok {
		return known
	}
	for _, line := range strings.Split(readAll(p.t, m, message), "\r\n") {
		if strings.HasPrefix(line, "Subject: ") {
			p.subjects[message.Dot] = line
			return line
		}
	}
	return ""
}

func (p *pairModel) flag(n int) {
	m, message, _ := p.pick(n)
	if m == nil {
		return
	}
	defer m.Close()
	change := FlagsChange{
		Op:    FlagsOp(rapid.IntRange(0, 2).Draw(p.rt, "how")),
		Flags: Flags(rapid.IntRange(0, int(allFlags)).Draw(p.rt, "flags")), Keywords: []string{rapid.SampledFrom([]string{"$a", "$b"}).Draw(p.rt, "keyword")},
	}
	_, err := m.StoreFlags(context.Background(), []imap.UID{message.UID}, change)
	p.check(err)
}

func (p *pairModel) expunge(n int) {
	m, message, subject := p.pick(n)
	if m == nil {
		return
	}
	defer m.Close()
	_, err := m.remove(context.Background(), []imap.UID{message.UID}, false)
	p.check(err)
	p.killed[subject] = true
}

// crash ends a node's process; the other notices.
func (p *pairModel) crash(n int) {
	if p.up {
		p.check(p.nodes[1-n].replica.Detach(context.Background()))
		p.up = false
	}
	p.start(n)
}

// halfAttach has the other node attach and hear nothing.
func (p *pairModel) halfAttach() {
	if p.up {
		return
	}
	other := 1 - p.home
	theirs, err := p.nodes[other].replica.BeginAttach(context.Background())
	p.check(err)
	if rapid.Bool().Draw(p.rt, "arrives") {
		p.check(p.nodes[p.home].replica.Attached(context.Background(), theirs))
		if rapid.Bool().Draw(p.rt, "mail meanwhile") {
			p.add(p.home)
		}
		p.check(p.nodes[p.home].replica.Detach(context.Background()))
	}
	p.check(p.nodes[other].replica.Detach(context.Background()))
}

func (p *pairModel) heal() {
	if !p.up {
		p.connect()
	}
}

// carrySome carries a few records, and perhaps loses the link before the answer.
func (p *pairModel) carrySome() {
	if !p.up {
		return
	}
	from := rapid.IntRange(0, 1).Draw(p.rt, "from")
	applied, ok := p.send(from, rapid.IntRange(1, 2000).Draw(p.rt, "octets"))
	switch {
	case !ok:
	case rapid.IntRange(0, 4).Draw(p.rt, "lost") > 0:
		p.acknowledge(from, applied)
	default:
		p.cut()
	}
}

// look holds what each node shows against what was shown before.
func (p *pairModel) look() {
	for n, s := range p.nodes {
		m, err := s.account.Mailbox(context.Background(), "INBOX")
		p.check(err)
		v := m.View()
		now := make(map[imap.UID]bool, v.Len())
		for i := range v.Len() {
			message := v.At(i)
			now[message.UID] = true
			subject := p.subject(m, message)
			if was, known := p.bound[message.UID]; known && was != subject {
				p.rt.Fatalf("node %d: UID %d is %q, and was %q", n, message.UID, subject, was)
			}
			p.bound[message.UID] = subject
			if !p.shown[n][message.UID] && message.UID <= p.highest[n] {
				p.rt.Fatalf("node %d: UID %d appears after %d", n, message.UID, p.highest[n])
			}
		}
		for u := range now {
			p.highest[n] = max(p.highest[n], u)
		}
		p.shown[n] = now
		m.Close()
	}
}

// settled checks what holds once everything is healed.
func (p *pairModel) settled() {
	p.heal()
	p.calm()
	p.look()
	if p.t.Failed() {
		p.rt.Fatal("failed")
	}
	a, b := p.nodes[0].list(p.t, "INBOX"), p.nodes[1].list(p.t, "INBOX")
	if !slices.Equal(a, b) {
		p.rt.Fatalf("INBOX differs:\n%s\nand\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	var positions [2]Position
	for n, s := range p.nodes {
		var err error
		positions[n], err = s.replica.Position(context.Background())
		p.check(err)
		if !positions[n].Settled {
			p.rt.Fatalf("node %d is not settled", n)
		}
	}
	if positions[0].Digest != positions[1].Digest {
		p.rt.Fatalf("digests %x and %x differ", positions[0].Digest, positions[1].Digest)
	}
	m, err := p.nodes[0].account.Mailbox(context.Background(), "INBOX")
	p.check(err)
	defer m.Close()
	times := make(map[string]int)
	for i := range m.View().Len() {
		times[p.subject(m, m.View().At(i))]++
	}
	for subject := range p.acked {
		switch n := times[subject]; {
		case n == 0 && !p.killed[subject]:
			p.rt.Fatalf("%q is lost", subject)
		case n > 0 && p.killed[subject] && !p.delivered[subject]:
			p.rt.Fatalf("%q came back", subject)
		case n > 1:
			p.rt.Fatalf("%q is there %d times", subject, n)
		}
	}
}

// TestPairModel has random things done to two mail stores that replicate.
func TestPairModel(t *testing.T) {
	t.Parallel()
	var nodes [2]*side
	for n := range nodes {
		kv, blobs := storetest.Open(t)
		nodes[n] = &side{kv: kv, blobs: blobs}
	}
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		home := uint8(rapid.IntRange(0, 1).Draw(rt, "home"))
		name := ""
		for name == "" || (mail.Account{Name: name}).HomeClass() != home {
			runs++
			name = fmt.Sprint("model", runs)
		}
		p := &pairModel{
			twoNodes: &twoNodes{t: t, name: name, nodes: [2]*side{{kv: nodes[0].kv, blobs: nodes[0].blobs}, {kv: nodes[1].kv, blobs: nodes[1].blobs}}},
			rt:       rt, acked: map[string]bool{}, killed: map[string]bool{}, delivered: map[string]bool{}, bound: map[imap.UID]string{},
			subjects: map[Dot]string{},
		}
		p.home = p.twoNodes.home()
		for n := range p.nodes {
			p.start(n)
		}
		either := func(fn func(int)) func(*rapid.T) {
			return func(rt *rapid.T) { p.rt = rt; fn(rapid.IntRange(0, 1).Draw(rt, "node")) }
		}
		plain := func(fn func()) func(*rapid.T) { return func(rt *rapid.T) { p.rt = rt; fn() } }
		rt.Repeat(map[string]func(*rapid.T){
			"add": either(p.add), "deliver": either(p.deliver), "flag": either(p.flag), "expunge": either(p.expunge),
			"carry": plain(p.carrySome), "carry more": plain(p.carrySome), "crash": either(p.crash), "half": plain(p.halfAttach),
			"cut":  plain(func() { p.cut() }),
			"heal": plain(p.heal), "settle": plain(p.settled),
			"": plain(p.look),
		})
		p.rt = rt
		p.settled()
		for _, s := range p.nodes {
			s.account.Close()
		}
	})
	for n := range nodes {
		s := openOn(t, Config{Node: uint16(n), Pair: true}, nodes[n].kv, nodes[n].blobs)
		if err := s.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
