package thread

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

func (f *Forest) String() string {
	var b []byte
	for i := range f.Threads() {
		b = f.AppendThread(b, i, func(m int) uint32 { return uint32(m + 1) })
	}
	return string(b)
}

func TestReferences(t *testing.T) {
	t.Parallel()
	ref := func(ids ...uint64) []uint64 { return ids }
	for _, tt := range []struct {
		name     string
		messages []Message
		want     string
	}{
		{"nothing", nil, ""},
		{"a chain", []Message{{ID: 1}, {ID: 2, References: ref(1)}, {ID: 3, References: ref(1, 2)}}, "(1 2 3)"},
		{"the answer first", []Message{{ID: 2, References: ref(1), Sent: 2}, {ID: 1, Sent: 1}}, "(2 1)"},
		{"siblings", []Message{{ID: 1}, {ID: 2, References: ref(1), Sent: 5}, {ID: 3, References: ref(1), Sent: 4}}, "(1 (3)(2))"},
		{"a missing parent of one", []Message{{ID: 2, References: ref(1)}}, "(1)"},
		{"a missing parent of two", []Message{{ID: 2, References: ref(1)}, {ID: 3, References: ref(1)}}, "((1)(2))"},
		{"a missing link", []Message{{ID: 1}, {ID: 3, References: ref(1, 2)}}, "(1 2)"},
		{"a missing fork in a thread", []Message{{ID: 1}, {ID: 3, References: ref(1, 2)}, {ID: 4, References: ref(1, 2)}}, "(1 (2)(3))"},
		{"missing ancestors", []Message{{ID: 8, References: ref(1, 2, 3)}, {ID: 9, References: ref(1, 4)}}, "((1)(2))"},
		{"a loop", []Message{{ID: 1, References: ref(2)}, {ID: 2, References: ref(1)}}, "(2 1)"},
		{"itself", []Message{{ID: 1, References: ref(1)}}, "(1)"},
		{"the same Message-ID twice", []Message{{ID: 1}, {ID: 1, References: ref(7)}, {ID: 3, References: ref(1)}}, "(1 3)(2)"},
		{"a wrong link of another", []Message{{ID: 3, References: ref(1, 2)}, {ID: 2}, {ID: 1}}, "(2 1)(3)"},
		{"one subject", []Message{{Subject: "A", Sent: 2}, {Subject: "A", Sent: 1}}, "((2)(1))"},
		{"an answer by subject", []Message{{Subject: "A", Reply: true, Sent: 1}, {Subject: "A", Sent: 2}}, "(2 1)"},
		{"two answers by subject", []Message{{Subject: "A", Reply: true}, {Subject: "A", Reply: true}}, "((1)(2))"},
		{"three by subject", []Message{{Subject: "A"}, {Subject: "A"}, {Subject: "A", Reply: true}}, "((1)(2)(3))"},
		{"no subject", []Message{{}, {}}, "(1)(2)"},
		{"two dummies by subject", []Message{
			{ID: 11, References: ref(1), Subject: "A", Reply: true, Sent: 1}, {ID: 12, References: ref(1), Subject: "B", Sent: 9},
			{ID: 13, References: ref(2), Subject: "A", Reply: true, Sent: 3}, {ID: 14, References: ref(2), Subject: "C", Sent: 4},
		}, "((1)(3)(4)(2))"},
	} {
		if got := References(tt.messages).String(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestOrderedSubject(t *testing.T) {
	t.Parallel()
	f := OrderedSubject([]Message{
		{Subject: "B", Sent: 3}, {Subject: "A", Sent: 9}, {Subject: "B", Sent: 5}, {Subject: "B", Sent: 4}, {Subject: "A", Sent: 1}, {Subject: "C", Sent: 2},
	})
	if got, want := f.String(), "(5 2)(6)(1 (4)(3))"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// The example of RFC 5256 section 4: 3 6 (4 23)(44 7 96).
func TestAppendThread(t *testing.T) {
	t.Parallel()
	numbers := []uint32{2, 3, 6, 4, 23, 44, 7, 96}
	f := newForest(8)
	f.roots = []int32{0, 1}
	f.adopt(1, []int32{2})
	f.adopt(2, []int32{3, 5})
	f.adopt(3, []int32{4})
	f.adopt(5, []int32{6})
	f.adopt(6, []int32{7})
	var b []byte
	for i := range f.Threads() {
		b = f.AppendThread(b, i, func(m int) uint32 { return numbers[m] })
	}
	if string(b) != "(2)(3 6 (4 23)(44 7 96))" {
		t.Errorf("%s", b)
	}
}

// container is a node of the slow model, which does what RFC 5256 says step by
// step.
type container struct {
	message *Message
	index   int
	parent  *container
	kids    []*container
}

func (c *container) above(d *container) bool {
	for ; d != nil; d = d.parent {
		if d == c {
			return true
		}
	}
	return false
}

func (c *container) part() {
	if p := c.parent; p != nil {
		p.kids = slices.DeleteFunc(p.kids, func(k *container) bool { return k == c })
		c.parent = nil
	}
}

func (c *container) adopt(k *container) {
	k.part()
	k.parent = c
	c.kids = append(c.kids, k)
}

func (c *container) leader() *container {
	if c.message == nil {
		return c.kids[0]
	}
	return c
}

func (c *container) sort(deep bool) {
	if deep {
		for _, k := range c.kids {
			k.sort(true)
		}
	}
	slices.SortFunc(c.kids, func(a, b *container) int {
		x, y := a.leader(), b.leader()
		if x.message.Sent != y.message.Sent {
			return int(x.message.Sent - y.message.Sent)
		}
		return x.index - y.index
	})
}

func (c *container) prune(atRoot bool) []*container {
	var kids []*container
	for _, k := range slices.Clone(c.kids) {
		kids = append(kids, k.prune(false)...)
	}
	c.kids = kids
	for _, k := range kids {
		k.parent = c
	}
	if c.message != nil || atRoot && len(kids) > 1 {
		return []*container{c}
	}
	return kids
}

func (c *container) String() string {
	var b strings.Builder
	if c.message != nil {
		fmt.Fprint(&b, c.index+1)
		if len(c.kids) > 0 {
			b.WriteByte(' ')
		}
	}
	for _, k := range c.kids {
		if len(c.kids) == 1 {
			b.WriteString(k.String())
		} else {
			b.WriteString("(" + k.String() + ")")
		}
	}
	return b.String()
}

func slowReferences(messages []Message) string {
	table, unnamed := map[uint64]*container{}, uint64(1)<<40
	get := func(id uint64) *container {
		if table[id] == nil {
			table[id] = &container{}
		}
		return table[id]
	}
	own := make([]*container, len(messages))
	for i := range messages {
		id := messages[i].ID
		if id == 0 || table[id] != nil {
			unnamed++
			id = unnamed
		}
		own[i] = get(id)
		own[i].message, own[i].index = &messages[i], i
	}
	for i := range messages {
		var before *container
		for _, id := range messages[i].References {
			c := get(id)
			if before != nil && c.parent == nil && !c.above(before) {
				before.adopt(c)
			}
			before = c
		}
		own[i].part()
		if before != nil && !own[i].above(before) {
			before.adopt(own[i])
		}
	}
	root := &container{}
	var tops []*container
	for _, c := range table {
		if c.parent == nil {
			tops = append(tops, c)
		}
	}
	for _, c := range tops {
		for _, k := range c.prune(true) {
			k.parent = nil
			root.adopt(k)
		}
	}
	for _, c := range root.kids {
		if c.message == nil {
			c.sort(false)
		}
	}
	root.sort(false)
	slowSubjects(root)
	root.sort(true)
	var b strings.Builder
	for _, c := range root.kids {
		b.WriteString("(" + c.String() + ")")
	}
	return b.String()
}

func slowSubjects(root *container) {
	table := map[string]*container{}
	for _, c := range root.kids {
		s, held := c.leader().message.Subject, table[c.leader().message.Subject]
		if s != "" && (held == nil || held.message != nil && (c.message == nil || held.message.Reply && !c.message.Reply)) {
			table[s] = c
		}
	}
	subjects := map[*container]string{}
	all := slices.Clone(root.kids)
	for _, c := range all {
		subjects[c] = c.leader().message.Subject
	}
	for _, c := range all {
		s := subjects[c]
		held := table[s]
		switch {
		case s == "" || held == c:
		case held.message == nil && c.message == nil:
			for _, k := range slices.Clone(c.kids) {
				held.adopt(k)
			}
			c.part()
		case held.message == nil, c.message.Reply && !held.message.Reply:
			held.adopt(c)
		default:
			d := &container{}
			d.adopt(held)
			d.adopt(c)
			root.adopt(d)
			table[s] = d
		}
	}
}

// random makes a mailbox of related, unrelated and nonsensical messages.
func random(r *rand.Rand) []Message {
	messages := make([]Message, r.IntN(14))
	for i := range messages {
		m := &messages[i]
		m.ID = uint64(r.IntN(len(messages) + 3))
		m.Sent = int64(r.IntN(6))
		for range r.IntN(4) {
			m.References = append(m.References, uint64(1+r.IntN(len(messages)+5)))
		}
		if r.IntN(2) == 0 {
			m.Subject, m.Reply = string(rune('A'+r.IntN(4))), r.IntN(2) == 0
		}
	}
	return messages
}

func TestReferencesLikeTheSlowModel(t *testing.T) {
	t.Parallel()
	seed := testenv.Seed(t)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		messages := random(r)
		if got, want := References(messages).String(), slowReferences(messages); got != want {
			t.Fatalf("seed %d: %+v:\n got %s\nwant %s", seed, messages, got, want)
		}
	}
}

// Neither long chains nor bad orders of them may take stack or time.
func TestLongChain(t *testing.T) {
	t.Parallel()
	const n = 200_000
	for _, backwards := range []bool{false, true} {
		messages := make([]Message, n)
		for i := range messages {
			messages[i] = Message{ID: uint64(i + 1)}
			if backwards && i < n-1 {
				messages[i].References = []uint64{uint64(i + 2)}
			} else if !backwards && i > 0 {
				messages[i].References = []uint64{uint64(i)}
			}
		}
		if got := References(messages); got.Threads() != 1 || strings.ContainsAny(got.String()[1:n], "()") {
			t.Errorf("backwards %v: %d threads", backwards, got.Threads())
		}
	}
}

func FuzzReferences(f *testing.F) {
	f.Add([]byte{1, 0, 0, 2, 1, 0}, uint8(3))
	f.Add([]byte("abcabcabc"), uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, refs uint8) {
		step := 3 + int(refs%4)
		var messages []Message
		for ; len(b) >= step && len(messages) < 40; b = b[step:] {
			m := Message{ID: uint64(b[0] % 16), Sent: int64(b[1] % 8), Reply: b[2]&1 != 0}
			if b[2]&6 != 0 {
				m.Subject = string(rune('A' + b[2]&6))
			}
			for _, id := range b[3:step] {
				m.References = append(m.References, 1+uint64(id%20))
			}
			messages = append(messages, m)
		}
		got := References(messages).String()
		if want := slowReferences(messages); got != want {
			t.Errorf("%+v:\n got %s\nwant %s", messages, got, want)
		}
		for i := range messages {
			if n := len(strings.FieldsFunc(got, func(r rune) bool { return r < '0' || r > '9' })); n != len(messages) {
				t.Fatalf("%d of %d messages in %s, message %d", n, len(messages), got, i)
			}
		}
	})
}

func BenchmarkReferences(b *testing.B) {
	const n = 50_000
	messages := make([]Message, n)
	for i := range messages {
		messages[i] = Message{ID: uint64(i + 1), Sent: int64(i), Subject: fmt.Sprint(i / 7)}
		for k := i - i%7; k < i; k++ {
			messages[i].References = append(messages[i].References, uint64(k+1))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		References(messages)
	}
}
