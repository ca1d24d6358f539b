package mailstore

import (
	"fmt"
	"testing"

	"github.com/emersion/go-imap/v2"
)

// BenchmarkApply has one node apply what the other logged: changes of flags,
// one to an operation, and small messages.
func BenchmarkApply(b *testing.B) {
	b.Run("flags", func(b *testing.B) {
		p := newPair(b, "kim")
		p.connect()
		const messages = 200
		for i := range messages {
			p.nodes[0].add(b, "INBOX", i)
		}
		p.calm()
		m := openMailbox(b, p.nodes[0].account, "INBOX")
		uids := uidsOf(m.View())
		a := m.box.account
		for done := 0; done < b.N; {
			n := min(250, b.N-done)
			err := a.change(b.Context(), func(t *txn) error {
				for i := range n {
					c := FlagsChange{Op: FlagsOp(1 + (done+i)/messages%2), Flags: FlagSeen}
					if _, err := t.storeFlags(m.box, []imap.UID{uids[(done+i)%messages]}, &c); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			done += n
		}
		b.ResetTimer()
		for p.carry(0, 1<<20) {
		}
	})
	b.Run("adds", func(b *testing.B) {
		p := newPair(b, "kim")
		for i := range b.N {
			p.nodes[0].deliver(b, fmt.Sprint("Q", i), i)
		}
		p.connect()
		b.ResetTimer()
		for p.carry(0, 1<<20) {
		}
	})
}
