package pop3d

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// node is one of a pair, for the account of alice.
type node struct {
	*server
	blobs   store.Blobs
	replica *mailstore.Replica
	had     uint64 // operations of it that the other one has
}

// partner is what a node knows of the other: nothing, here.
type partner struct{}

func (partner) Committed(mailstore.GUID, string, uint64) {}
func (partner) Durable(context.Context, mailstore.GUID, uint64, mailstore.Durability) error {
	return nil
}
func (partner) Available(mailstore.GUID, string) error { return nil }
func (partner) Fetch(context.Context, store.Ref) error { return errors.New("nothing is missing") }

func newNode(t *testing.T, number uint16) *node {
	t.Helper()
	kv, blobs := storetest.Open(t)
	st, err := mailstore.Open(t.Context(), mailstore.Config{Node: number, Pair: true}, kv, blobs, hclog.NewNullLogger())
	if err == nil {
		err = st.Join(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	st.SetPartner(partner{})
	account, err := st.Account(t.Context(), mail.Account{Name: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	defer account.Close()
	r, err := st.Replica(t.Context(), account.GUID(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	return &node{server: startServerOn(t, testConfig(), st), blobs: blobs, replica: r}
}

// attach brings the nodes together and carries everything over.
func attach(t *testing.T, nodes [2]*node) {
	t.Helper()
	var at [2]mailstore.Position
	for i, n := range nodes {
		var err error
		if at[i], err = n.replica.BeginAttach(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range nodes {
		n.had = at[1-i].Vector.Of(at[i].Origin).Seq
		if err := n.replica.Attached(t.Context(), at[1-i]); err != nil {
			t.Fatal(err)
		}
	}
	exchange(t, nodes)
}

// exchange carries what the nodes logged to each other until there is nothing
// more.
func exchange(t *testing.T, nodes [2]*node) {
	t.Helper()
	for moved := true; moved; {
		moved = false
		for i, from := range nodes {
			records, err := from.replica.Journal(t.Context(), from.had, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range records {
				carry(t, from, nodes[1-i], r)
				moved = true
			}
		}
	}
}

func carry(t *testing.T, from, to *node, r mailstore.Record) {
	t.Helper()
	missing, err := to.replica.Missing(t.Context(), r.Bodies)
	if err != nil {
		t.Fatal(err)
	}
	bodies, gone := map[store.Hash]store.Staged{}, mailstore.Gone{}
	for _, ref := range missing {
		body, err := from.blobs.Open(t.Context(), ref)
		if errors.Is(err, store.ErrNotFound) {
			gone[ref.Hash] = r.Last
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		staged, err := to.store.Stage(t.Context(), io.NewSectionReader(body, 0, body.Size()))
		_ = body.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer staged.Discard()
		bodies[ref.Hash] = staged
	}
	done, err := to.replica.Apply(t.Context(), [][]byte{r.Raw}, bodies, gone)
	if err != nil {
		t.Fatal(err)
	}
	from.had = r.Last
	if err := from.replica.Acked(t.Context(), mailstore.Ack{Seq: r.Last, Floors: done.Floors, ModSeq: done.ModSeq, Vector: done.Vector}); err != nil {
		t.Fatal(err)
	}
}

// uids are those of the messages, by subject.
func (n *node) uids() map[mailstore.Dot]uint32 {
	found := make(map[mailstore.Dot]uint32)
	n.inbox("alice", func(_ *mailstore.Account, box *mailstore.Mailbox) {
		for v, i := box.View(), 0; i < v.Len(); i++ {
			found[v.At(i).Dot] = uint32(v.At(i).UID)
		}
	})
	return found
}

// names are those that UIDL tells, without message numbers.
func names(c *client) map[string]bool {
	found := make(map[string]bool)
	for line := range strings.Lines(c.whole("UIDL")) {
		_, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		found[name] = true
	}
	return found
}

// TestRenumbering: messages that get other UIDs when the nodes of a pair meet
// again keep their names, and sessions under way go on with them to the end.
func TestRenumbering(t *testing.T) {
	t.Parallel()
	nodes := [2]*node{newNode(t, 0), newNode(t, 1)}
	attach(t, nodes)
	for _, n := range nodes {
		if err := n.replica.Detach(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var before [2]map[mailstore.Dot]uint32
	var open [2]*client
	var known [2]map[string]bool
	for i, n := range nodes {
		n.add("alice", numbered(3)...)
		before[i] = n.uids()
		open[i] = n.login("alice")
		known[i] = names(open[i])
	}
	attach(t, nodes)
	renumbered := 0
	for i, n := range nodes {
		after := n.uids()
		for dot, uid := range before[i] {
			if after[dot] != uid {
				renumbered++
			}
		}
		for number, want := range numbered(3) {
			if got := open[i].whole("RETR " + itoa(number+1)); got != want {
				t.Errorf("node %d: RETR %d: %q", i, number+1, got)
			}
		}
		open[i].says("DELE 2", "+OK")
		open[i].says("QUIT", "+OK")
	}
	if renumbered == 0 {
		t.Error("no message was renumbered: the test looks at nothing")
	}
	exchange(t, nodes)
	here, there := nodes[0].login("alice"), nodes[1].login("alice")
	left, same := names(here), names(there)
	if len(left) != 4 || len(same) != 4 {
		t.Errorf("%d and %d messages are left, want 4", len(left), len(same))
	}
	for name := range left {
		if !same[name] || !known[0][name] && !known[1][name] {
			t.Errorf("%s is a new name, or one of one node only", name)
		}
	}
}
