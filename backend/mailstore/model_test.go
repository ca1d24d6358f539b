package mailstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"
	"pgregory.net/rapid"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// modelMessage and modelMailbox are the naive account the real one is
// compared with.
type modelMessage struct {
	uid      imap.UID
	flags    Flags
	keywords string
	text     string
}

type modelMailbox struct {
	guid     GUID
	uidNext  imap.UID
	messages []modelMessage
	gone     []imap.UID
}

func (m *modelMailbox) add(n modelMessage) {
	n.uid = m.uidNext
	m.uidNext++
	m.messages = append(m.messages, n)
}

// machine runs random operations on both.
type machine struct {
	t         testing.TB
	kv        store.Store
	blobs     store.Blobs
	store     *Store
	account   *Account
	model     map[string]*modelMailbox
	delivered map[string]bool
	number    int
}

var modelNames = []string{"INBOX", "a", "a/b", "a/b/c", "d"}

func (m *machine) open(t *rapid.T) {
	var err error
	if m.store, err = Open(context.Background(), Config{flagBlockWorth: 2, Mailboxes: []ConfiguredMailbox{}}, m.kv, m.blobs, hclog.NewNullLogger()); err != nil {
		t.Fatal(err)
	}
	if m.account, err = m.store.Account(context.Background(), mail.Account{Name: fmt.Sprintf("model%d", m.number)}); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) mailbox(t *rapid.T) (string, *modelMailbox, *Mailbox) {
	names := make([]string, 0, len(m.model))
	for name := range m.model {
		names = append(names, name)
	}
	slices.Sort(names)
	name := rapid.SampledFrom(names).Draw(t, "mailbox")
	box, err := m.account.Mailbox(context.Background(), name)
	if err != nil {
		t.Fatalf("open %q: %v", name, err)
	}
	return name, m.model[name], box
}

func (m *machine) uids(t *rapid.T, model *modelMailbox) []imap.UID {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) imap.UID {
		return imap.UID(rapid.IntRange(1, int(model.uidNext)).Draw(t, "uid"))
	}), 0, 6).Draw(t, "uids")
}

func (m *machine) add(t *rapid.T) {
	name, model, box := m.mailbox(t)
	defer box.Close()
	text := message(rapid.IntRange(0, 5).Draw(t, "text"))
	content := stage(m.t, m.store, text)
	defer content.Discard()
	flags := Flags(rapid.IntRange(0, int(allFlags)).Draw(t, "flags"))
	id := fmt.Sprint(rapid.IntRange(0, 20).Draw(t, "id"))
	if rapid.Bool().Draw(t, "deliver") {
		if err := m.account.Deliver(context.Background(), []Delivery{{ID: id, Content: content, Mailbox: name, Flags: flags}})[0]; err != nil {
			t.Fatal(err)
		}
		if !m.delivered[id] {
			m.delivered[id] = true
			model.add(modelMessage{flags: flags, text: text})
		}
		return
	}
	if _, err := box.Append(context.Background(), []Append{{Content: content, Flags: flags, Keywords: []string{"k" + id}}}); err != nil {
		t.Fatal(err)
	}
	model.add(modelMessage{flags: flags, keywords: "k" + id, text: text})
}

func (m *machine) storeFlags(t *rapid.T) {
	_, model, box := m.mailbox(t)
	defer box.Close()
	uids := m.uids(t, model)
	c := FlagsChange{
		Op:    FlagsOp(rapid.IntRange(0, 2).Draw(t, "op")),
		Flags: Flags(rapid.IntRange(0, int(allFlags)).Draw(t, "flags")),
	}
	if _, err := box.StoreFlags(context.Background(), uids, c); err != nil {
		t.Fatal(err)
	}
	for i := range model.messages {
		n := &model.messages[i]
		if !slices.Contains(uids, n.uid) {
			continue
		}
		switch c.Op {
		case FlagsAdd:
			n.flags |= c.Flags
		case FlagsRemove:
			n.flags &^= c.Flags
		default:
			n.flags, n.keywords = c.Flags, ""
		}
	}
}

func (m *machine) expunge(t *rapid.T) {
	_, model, box := m.mailbox(t)
	defer box.Close()
	uids := m.uids(t, model)
	if rapid.Bool().Draw(t, "all") {
		uids = nil
	}
	got, err := box.Expunge(context.Background(), uids)
	if err != nil {
		t.Fatal(err)
	}
	var want []imap.UID
	model.messages = slices.DeleteFunc(model.messages, func(n modelMessage) bool {
		gone := n.flags&FlagDeleted != 0 && (uids == nil || slices.Contains(uids, n.uid))
		if gone {
			want = append(want, n.uid)
		}
		return gone
	})
	model.gone = append(model.gone, want...)
	if !slices.Equal(got, want) {
		t.Fatalf("expunged %v, want %v", got, want)
	}
}

func (m *machine) transfer(t *rapid.T) {
	_, from, source := m.mailbox(t)
	defer source.Close()
	_, to, dest := m.mailbox(t)
	defer dest.Close()
	uids := sortedUIDs(m.uids(t, from))
	move := rapid.Bool().Draw(t, "move")
	do := source.Copy
	if move {
		do = source.Move
	}
	result, err := do(context.Background(), uids, dest)
	if err != nil {
		t.Fatal(err)
	}
	var taken []modelMessage
	for _, n := range from.messages {
		if slices.Contains(uids, n.uid) {
			taken = append(taken, n)
		}
	}
	if len(result.Source) != len(taken) || len(result.Dest) != len(taken) {
		t.Fatalf("took %v, want %d messages", result, len(taken))
	}
	for i, n := range taken {
		if result.Source[i] != n.uid || result.Dest[i] != to.uidNext {
			t.Fatalf("took %v, want %d to %d", result, n.uid, to.uidNext)
		}
		to.add(n)
		if move {
			from.gone = append(from.gone, n.uid)
			from.messages = slices.DeleteFunc(from.messages, func(o modelMessage) bool { return o.uid == n.uid })
		}
	}
}

func (m *machine) tree(t *rapid.T) {
	name := rapid.SampledFrom(modelNames).Draw(t, "name")
	switch rapid.IntRange(0, 2).Draw(t, "what") {
	case 0:
		info, err := m.account.Create(context.Background(), name, "")
		if _, exists := m.model[name]; exists != (err != nil) {
			t.Fatalf("create %q: %v", name, err)
		}
		if err == nil {
			m.model[name] = &modelMailbox{guid: info.GUID, uidNext: 1}
		}
	case 1:
		err := m.account.Delete(context.Background(), name)
		if _, exists := m.model[name]; (exists && name != inbox) != (err == nil) {
			t.Fatalf("delete %q: %v", name, err)
		}
		if err == nil {
			delete(m.model, name)
		}
	case 2:
		m.rename(t, name)
	}
}

func (m *machine) rename(t *rapid.T, from string) {
	to := rapid.SampledFrom(modelNames).Draw(t, "to")
	if from == inbox {
		return // TestRenameInboxMovesItsMessages
	}
	after := make(map[string]*modelMailbox)
	moved, clash := 0, to == inbox || strings.HasPrefix(to, from+"/")
	for name, box := range m.model {
		if name == from || strings.HasPrefix(name, from+"/") {
			moved++
			continue
		}
		after[name] = box
	}
	for name, box := range m.model {
		if name == from || strings.HasPrefix(name, from+"/") {
			if after[to+name[len(from):]] != nil {
				clash = true
			}
			after[to+name[len(from):]] = box
		}
	}
	clash = clash || m.model[to] != nil
	err := m.account.Rename(context.Background(), from, to)
	if (err == nil) != (moved > 0 && !clash) {
		t.Fatalf("rename %q to %q: %v; moves %d, clash %v", from, to, err, moved, clash)
	}
	if err == nil {
		m.model = after
	}
}

func (m *machine) reopen(t *rapid.T) {
	m.account.Close()
	m.open(t)
}

func (m *machine) check(t *rapid.T) {
	list, err := m.account.List(context.Background())
	if err != nil || len(list) != len(m.model) {
		t.Fatalf("list %v, want %d mailboxes, %v", list, len(m.model), err)
	}
	var octets int64
	for _, info := range list {
		model := m.model[info.Name]
		if model == nil || info.GUID != model.guid && model.guid != (GUID{}) {
			t.Fatalf("mailbox %+v, want %+v", info, model)
		}
		box, err := m.account.Mailbox(context.Background(), info.Name)
		if err != nil {
			t.Fatal(err)
		}
		m.compare(t, info.Name, box, model)
		octets += box.View().Octets()
		box.Close()
	}
	if used, _ := m.account.Quota(); used != octets {
		t.Fatalf("uses %d octets, mailboxes %d", used, octets)
	}
}

func (m *machine) compare(t *rapid.T, name string, box *Mailbox, model *modelMailbox) {
	v := box.View()
	if v.Len() != len(model.messages) || v.UIDNext() != model.uidNext {
		t.Fatalf("%q: %d messages, UIDNEXT %d, want %d, %d", name, v.Len(), v.UIDNext(), len(model.messages), model.uidNext)
	}
	unseen := 0
	for i, want := range model.messages {
		got := v.At(i)
		if got.UID != want.uid || got.Flags != want.flags || strings.Join(got.Keywords, " ") != want.keywords ||
			got.Octets != int64(len(want.text)) || got.ModSeq > v.HighestModSeq() {
			t.Fatalf("%q: message %d is %+v, want %+v", name, i, got, want)
		}
		if want.flags&FlagSeen == 0 {
			unseen++
		}
	}
	if v.Unseen() != unseen {
		t.Fatalf("%q: %d unseen, want %d", name, v.Unseen(), unseen)
	}
	gone, complete := box.ExpungedSince(0)
	slices.Sort(model.gone)
	if !complete || !slices.Equal(gone, model.gone) {
		t.Fatalf("%q: expunged %v, want %v", name, gone, model.gone)
	}
}

func TestModel(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	runs := 0
	var last *Store
	rapid.Check(t, func(r *rapid.T) {
		runs++
		m := &machine{
			t: t, kv: kv, blobs: blobs, number: runs,
			model: map[string]*modelMailbox{inbox: {uidNext: 1}}, delivered: make(map[string]bool),
		}
		m.open(r)
		defer func() { m.account.Close() }()
		r.Repeat(map[string]func(*rapid.T){
			"add": m.add, "flags": m.storeFlags, "expunge": m.expunge, "transfer": m.transfer,
			"tree": m.tree, "reopen": m.reopen, "": m.check,
		})
		last = m.store
	})
	if err := last.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if err := last.Check(t.Context()); err != nil {
		t.Error(err)
	}
}
