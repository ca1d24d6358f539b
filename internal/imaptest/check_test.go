package imaptest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// past builds histories by hand.
type past struct{ *History }

func (p past) do(e Event) {
	e.Account = "alice"
	if e.Begin == 0 {
		e.Begin = p.Now()
	}
	if e.UIDValidity == 0 {
		e.UIDValidity = 7
	}
	p.Note(e)
}

// listing makes messages of "uid content flags..." texts.
func listing(texts ...string) []Message {
	var list []Message
	for _, text := range texts {
		f := strings.Fields(text)
		var uid uint32
		_, _ = fmt.Sscan(f[0], &uid)
		list = append(list, Message{UID: uid, Content: f[1], EmailID: "M" + f[1], Flags: f[2:]})
	}
	return list
}

func (p past) view(node string, final bool, uidNext uint32, texts ...string) {
	m := listing(texts...)
	p.do(Event{Kind: View, Client: "c", Node: node, Mailbox: "INBOX", UIDNext: uidNext, Messages: m, Exists: len(m), Final: final})
}

// good is a history of two nodes in which everything is as promised: m1 stays,
// m2 is expunged, m3 is copied, m4 is moved, m5 is delivered to the second node
// while the two are apart and renumbered after, m6 is never acknowledged, m7
// lies in a mailbox that goes.
func good() past {
	p := past{NewHistory()}
	add := func(content string, uid uint32, acked bool) {
		p.do(Event{Kind: Add, Client: "c", Node: "A", Mailbox: "INBOX", Content: content, UID: uid, Acked: acked})
	}
	add("m1", 1, true)
	add("m2", 2, true)
	add("m3", 3, true)
	add("m4", 4, true)
	p.view("A", false, 5, "1 m1", "2 m2", "3 m3", "4 m4")
	p.do(Event{Kind: Poll, Client: "p", Node: "A", Mailbox: "INBOX", UIDNext: 5, From: 1, Messages: listing("1 m1", "2 m2", "3 m3", "4 m4")})
	p.do(Event{Kind: Expunge, Client: "c", Node: "A", Mailbox: "INBOX", UID: 2, Content: "m2", Acked: true, Certain: true})
	p.do(Event{Kind: Copy, Client: "c", Node: "A", Mailbox: "INBOX", Dest: "INBOX", UIDNext: 7, Acked: true, Pairs: []Pair{{3, 5, "m3"}}})
	p.do(Event{Kind: Move, Client: "c", Node: "A", Mailbox: "INBOX", Dest: "Trash", UIDNext: 9, Acked: true, Pairs: []Pair{{4, 1, "m4"}}})
	p.do(Event{Kind: Add, Client: "lmtp", Mailbox: "INBOX", Content: "m5", Acked: true})
	p.view("B", false, 4100, "1 m1", "3 m3", "5 m3", "4099 m5")
	add("m6", 0, false)
	p.do(Event{Kind: Add, Client: "c", Node: "A", Mailbox: "old", Content: "m7", UID: 1, UIDValidity: 8, Acked: true})
	p.do(Event{Kind: Delete, Client: "c", Node: "A", Mailbox: "old", UIDValidity: 8, Acked: true})
	p.view("A", false, 6, "1 m1", "3 m3", "5 m3")
	p.do(Event{
		Kind: Resync, Client: "c", Node: "B", Mailbox: "INBOX",
		Cached: listing(`1 m1 \Seen`, "3 m3", "5 m3", "4355 m5"), Messages: listing(`1 m1 \Seen`, "3 m3", "5 m3", "4355 m5"),
	})
	p.do(Event{Kind: Poll, Client: "p", Node: "B", Mailbox: "INBOX", UIDNext: 4356, From: 5, Final: true, Messages: listing("5 m3", "4355 m5")})
	for _, node := range []string{"A", "B"} {
		p.view(node, true, 4356, `1 m1 \Seen`, "3 m3", "5 m3", "4355 m5")
		m := listing("1 m4")
		p.do(Event{Kind: View, Client: "c", Node: node, Mailbox: "Trash", UIDValidity: 9, UIDNext: 2, Messages: m, Exists: 1, Final: true})
	}
	return p
}

func TestGoodHistory(t *testing.T) {
	t.Parallel()
	for _, v := range Check(good().Events()) {
		t.Error(v)
	}
}

// Each fault put into the good history is found, and called by its name.
func TestFaultsAreFound(t *testing.T) {
	t.Parallel()
	find := func(events []Event, which func(*Event) bool) *Event {
		for i := range events {
			if which(&events[i]) {
				return &events[i]
			}
		}
		panic("no such event")
	}
	final := func(node string) func(*Event) bool {
		return func(e *Event) bool { return e.Kind == View && e.Final && e.Node == node && e.Mailbox == "INBOX" }
	}
	without := func(e *Event, uid uint32) {
		e.Messages = slices.DeleteFunc(slices.Clone(e.Messages), func(m Message) bool { return m.UID == uid })
		e.Exists = len(e.Messages)
	}
	with := func(e *Event, texts ...string) {
		e.Messages = append(slices.Clone(e.Messages), listing(texts...)...)
		slices.SortFunc(e.Messages, func(a, b Message) int { return int(a.UID) - int(b.UID) })
		e.Exists = len(e.Messages)
	}
	for _, tt := range []struct {
		name, want string
		fault      func(past, []Event) []Event
	}{
		{"an acknowledged message is lost on one node", "S1", func(_ past, e []Event) []Event {
			without(find(e, final("A")), 1)
			return e
		}},
		{"a delivered message is lost on both", "S1", func(_ past, e []Event) []Event {
			without(find(e, final("A")), 4355)
			without(find(e, final("B")), 4355)
			return e
		}},
		{"a copy is lost", "S1", func(_ past, e []Event) []Event {
			without(find(e, final("B")), 5)
			return e
		}},
		{"a moved message is lost", "S1", func(_ past, e []Event) []Event {
			without(find(e, func(e *Event) bool { return e.Final && e.Mailbox == "Trash" }), 1)
			return e
		}},
		{"an expunged message is back under its UID", "S2", func(_ past, e []Event) []Event {
			with(find(e, final("A")), "2 m2")
			return e
		}},
		{"an expunged message is back under another UID", "S2", func(_ past, e []Event) []Event {
			with(find(e, final("A")), "4360 m2")
			with(find(e, final("B")), "4360 m2")
			return e
		}},
		{"an expunged message is shown once more", "S2", func(p past, e []Event) []Event {
			p.do(Event{Kind: Saw, Client: "c", Node: "A", Mailbox: "INBOX", Messages: listing("2 m2"), Exists: 1})
			return p.Events()
		}},
		{"a delivery is there twice", "S2", func(_ past, e []Event) []Event {
			with(find(e, final("A")), "4370 m5")
			return e
		}},
		{"a message comes from nowhere", "S2", func(_ past, e []Event) []Event {
			with(find(e, final("A")), "4370 mx")
			return e
		}},
		{"a UID stands for two contents on two nodes", "S3", func(p past, e []Event) []Event {
			p.do(Event{Kind: Saw, Client: "c", Node: "B", Mailbox: "INBOX", Messages: listing("4 m5"), Exists: 1})
			return p.Events()
		}},
		{"APPENDUID lied", "S3", func(_ past, e []Event) []Event {
			find(e, func(e *Event) bool { return e.Kind == Add && e.Content == "m4" }).UID = 3
			return e
		}},
		{"COPYUID lied", "S3", func(_ past, e []Event) []Event {
			find(e, func(e *Event) bool { return e.Kind == Copy }).Pairs[0].Dest = 1
			return e
		}},
		{"an EMAILID stands for two contents", "S3", func(_ past, e []Event) []Event {
			v := find(e, final("B"))
			v.Messages = slices.Clone(v.Messages)
			v.Messages[0].EmailID = v.Messages[1].EmailID
			return e
		}},
		{"a message appears below UIDNEXT", "S4", func(p past, e []Event) []Event {
			p.view("A", false, 4356, "1 m1", "3 m3", "5 m3", "4353 m5", "4355 m5")
			return p.Events()
		}},
		{"UIDNEXT goes down", "S4", func(p past, e []Event) []Event {
			p.view("B", false, 4300, `1 m1`, "3 m3", "5 m3")
			return p.Events()
		}},
		{"who polls for new mail misses one", "S4b", func(_ past, e []Event) []Event {
			without(find(e, func(e *Event) bool { return e.Kind == Poll && e.Final }), 4355)
			return e
		}},
		{"a ghost in the cache", "S5", func(_ past, e []Event) []Event {
			r := find(e, func(e *Event) bool { return e.Kind == Resync })
			r.Cached = append(slices.Clone(r.Cached), listing("4400 m1")...)
			return e
		}},
		{"a message missing in the cache", "S5", func(_ past, e []Event) []Event {
			r := find(e, func(e *Event) bool { return e.Kind == Resync })
			r.Cached = r.Cached[1:]
			return e
		}},
		{"old flags in the cache", "S5", func(_ past, e []Event) []Event {
			r := find(e, func(e *Event) bool { return e.Kind == Resync })
			r.Cached = slices.Clone(r.Cached)
			r.Cached[0].Flags = nil
			return e
		}},
		{"EXISTS is not what is known", "S5", func(_ past, e []Event) []Event {
			find(e, func(e *Event) bool { return e.Kind == View }).Exists++
			return e
		}},
		{"the nodes differ in flags", "S6", func(_ past, e []Event) []Event {
			v := find(e, final("B"))
			v.Messages = slices.Clone(v.Messages)
			v.Messages[0].Flags = nil
			return e
		}},
		{"the nodes differ in UIDs", "S6", func(_ past, e []Event) []Event {
			v := find(e, final("B"))
			v.Messages = slices.Clone(v.Messages)
			v.Messages[3].UID = 4356
			return e
		}},
		{"the nodes differ in UIDVALIDITY", "S6", func(_ past, e []Event) []Event {
			find(e, final("B")).UIDValidity = 10
			return e
		}},
	} {
		p := good()
		found := Check(tt.fault(p, p.Events()))
		if !slices.ContainsFunc(found, func(v Violation) bool { return v.Invariant == tt.want }) {
			t.Errorf("%s: %v, want %s", tt.name, found, tt.want)
		}
	}
}

// What may have happened is no promise, in either direction.
func TestUnknownOutcomes(t *testing.T) {
	t.Parallel()
	for _, there := range []bool{false, true} {
		p := past{NewHistory()}
		p.do(Event{Kind: Add, Client: "c", Node: "A", Mailbox: "INBOX", Content: "maybe"})
		p.do(Event{Kind: Add, Client: "c", Node: "A", Mailbox: "INBOX", Content: "sure", UID: 1, Acked: true})
		p.do(Event{Kind: Expunge, Client: "c", Node: "A", Mailbox: "INBOX", UID: 1, Content: "sure"})
		p.do(Event{Kind: Copy, Client: "c", Node: "A", Mailbox: "INBOX", Dest: "INBOX", Pairs: []Pair{{1, 0, "sure"}}})
		var texts []string
		if there {
			texts = []string{"1 sure", "2 sure", "3 maybe"}
		}
		p.view("A", true, 4, texts...)
		for _, v := range Check(p.Events()) {
			t.Errorf("there %v: %s", there, v)
		}
	}
}

// Two nodes that are apart may expunge one instance under two UIDs.
func TestExpungedTwiceApart(t *testing.T) {
	t.Parallel()
	p := past{NewHistory()}
	p.do(Event{Kind: Add, Client: "c", Node: "A", Mailbox: "INBOX", Content: "m", UID: 1, Acked: true})
	p.do(Event{Kind: Copy, Client: "c", Node: "A", Mailbox: "INBOX", Dest: "INBOX", UIDNext: 7, Acked: true, Pairs: []Pair{{1, 2, "m"}}})
	p.do(Event{Kind: Expunge, Client: "c", Node: "A", Mailbox: "INBOX", UID: 1, Content: "m", Acked: true, Certain: true})
	p.do(Event{Kind: Expunge, Client: "c", Node: "B", Mailbox: "INBOX", UID: 4097, Content: "m", Acked: true, Certain: true})
	p.view("A", true, 4098, "2 m")
	for _, v := range Check(p.Events()) {
		t.Error(v)
	}
}
