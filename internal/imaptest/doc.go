// Package imaptest finds out what IMAP clients can tell of one server or of a
// pair: clients that write down what they were promised and shown, and a
// checker that compares the notes with what was promised to them.
//
// A Client keeps a cache of each mailbox as programs with QRESYNC do (RFC 7162):
// it comes back after a lost connection with UIDVALIDITY, HIGHESTMODSEQ and the
// UIDs it knows, to any of its servers, and goes on from there. It knows
// messages by the Message-ID that Content puts in, and notes UID, UIDVALIDITY,
// EMAILID, flags and mod-sequence with each. Its methods return an error when
// the connection is lost or the server answers what IMAP does not allow; then
// Connect again, to whichever node. A tagged NO is a *No and leaves the session
// alive.
//
//	h := imaptest.NewHistory()
//	c := imaptest.NewClient(imaptest.Config{Name: "c1", Login: "alice", Password: "secret",
//		Nodes: []string{addr0, addr1}, History: h})
//	err := c.Connect(ctx, 0)             // log in at the first node
//	err = c.Select(ctx, "INBOX")         // from the cache, and brings that up to date
//	err = c.Append(ctx, "INBOX", "m1")   // noted before it is tried, and when it was acknowledged
//	err = c.Expunge(ctx, uid)            // one message, so that the answer is about that one
//	c.Drop()                             // the cable is pulled
//	err = c.Connect(ctx, 1)              // elsewhere, with the cache as it is
//	...
//	violations := imaptest.Check(h.Events())
//
// Deliveries by LMTP are noted by History.Delivery, by whoever makes them.
//
// When everything has settled, each node is looked at with Final, which notes
// every mailbox of the account as it is; the invariants that are about the end
// need that of every node. Resynced compares the cache with what is there; it
// is a proof only while nobody changes anything.
//
// What Check decides, in the words of the pair's promises:
//
//   - S1: every message that was acknowledged is there in the end, on every
//     node, as often as it was added, but for instances that some client tried
//     to expunge and mailboxes that some client tried to delete.
//   - S2: an instance whose expunge is certain is not shown again by that node,
//     and by none in the end; no message is there more often than somebody
//     added it.
//   - S3: a mailbox name, UIDVALIDITY and UID stand for one content for ever,
//     on all nodes; so does an EMAILID.
//   - S4: on each node, messages that appear have UIDs at or above the UIDNEXT
//     told before, and UIDNEXT does not go down. S4b: a client that only asks
//     for UIDs from the last UIDNEXT on, at any node, has seen every message
//     that is there in the end.
//   - S5: a cache that was brought up to date is what the node has.
//   - S6: in the end the nodes show the same.
//
// It never takes an unknown outcome for a promise: what was tried and not
// acknowledged may have happened or not.
//
// A Client belongs to one goroutine; a History is safe for concurrent use.
package imaptest
