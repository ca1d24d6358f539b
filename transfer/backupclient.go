package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
)

// BackupClient asks a ServeBackup. It is not safe for concurrent use. After an
// error that is not a Refused the conversation is of no more use.
type BackupClient struct {
	w      *wire
	staged int
	octets int64
}

// NewBackupClient talks to a ServeBackup at the other end of conn. The caller
// closes conn.
func NewBackupClient(conn net.Conn) *BackupClient { return &BackupClient{w: newWire(conn)} }

// ask sends a request and reads the answers to the end.
func (c *BackupClient) ask(ctx context.Context, q backupRequest, each func(*backupAnswer) error) error {
	stop := context.AfterFunc(ctx, func() { _ = c.w.conn.Close() })
	defer stop()
	err := c.w.put(q)
	if err == nil {
		err = c.w.bw.Flush()
	}
	for err == nil {
		var a backupAnswer
		if err = c.w.get(&a); err != nil {
			break
		}
		if a.End {
			if a.Error != "" {
				return &Refused{a.Error}
			}
			return nil
		}
		if each != nil {
			err = each(&a)
		}
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the server ended the conversation")
	}
	return cause(ctx, err)
}

// Accounts lists the accounts that are there.
func (c *BackupClient) Accounts(ctx context.Context) (all []KnownAccount, err error) {
	err = c.ask(ctx, backupRequest{Do: "accounts"}, func(a *backupAnswer) error {
		if a.Account != nil {
			all = append(all, *a.Account)
		}
		return nil
	})
	return all, err
}

// Owner finds an account by its name, a login, or an address. It need not be
// there.
func (c *BackupClient) Owner(ctx context.Context, user string) (found KnownAccount, err error) {
	err = c.ask(ctx, backupRequest{Do: "owner", Account: user}, func(a *backupAnswer) error {
		if a.Account != nil {
			found = *a.Account
		}
		return nil
	})
	return found, err
}

// Photograph hands each row of an account, as it is at one instant, to take,
// which should not dawdle. raw is the row as it is written down, and good until
// take returns.
func (c *BackupClient) Photograph(ctx context.Context, account string, take func(raw []byte, r *Row) error) error {
	return c.ask(ctx, backupRequest{Do: "photograph", Account: account}, func(a *backupAnswer) error {
		if a.Row == nil {
			return nil
		}
		var r Row
		if err := json.Unmarshal(a.Row, &r); err != nil {
			return err
		}
		if err := r.Check(); err != nil {
			return err
		}
		return take(a.Row, &r)
	})
}

// Bodies hands bodies to take, up to 1000 at a time, which reads all of r. gone
// is told of one that no message has any more, why of one that cannot be read.
func (c *BackupClient) Bodies(ctx context.Context, list []BodyRef, take func(b BodyRef, r io.Reader) error, gone func(b BodyRef, expunged bool, why string) error) error {
	return c.ask(ctx, backupRequest{Do: "bodies", Bodies: list}, func(a *backupAnswer) error {
		switch {
		case a.Body == nil:
			return nil
		case a.Gone != "":
			return gone(*a.Body, a.Gone == goneBody, a.Gone)
		}
		t := &text{w: c.w}
		taken := take(*a.Body, t)
		if err := t.finish(); err != nil {
			return err
		}
		if errors.Is(taken, errAbandoned) {
			return nil // why is told next
		}
		return taken
	})
}

// Finished tells the server of a backup that is complete.
func (c *BackupClient) Finished(ctx context.Context, done BackupDone) error {
	return c.ask(ctx, backupRequest{Do: "finished", Done: &done}, nil)
}

// Restore begins, or goes on, to make an account again as it was.
func (c *BackupClient) Restore(ctx context.Context, account *AccountRow, from string) error {
	return c.ask(ctx, backupRequest{Do: "restore", Row: &Row{Account: account}, From: from}, nil)
}

// Row sends a row of the account that is being restored, messages excepted.
// What is wrong with it the next call tells.
func (c *BackupClient) Row(ctx context.Context, r *Row) error {
	return cause(ctx, c.w.put(backupRequest{Do: "row", Row: r}))
}

// Tree makes the mailboxes that were sent, and returns up to which UID each is
// filled, by identity.
func (c *BackupClient) Tree(ctx context.Context) (map[string]uint32, error) {
	reached := make(map[string]uint32)
	err := c.ask(ctx, backupRequest{Do: "tree"}, func(a *backupAnswer) error {
		if a.Reached != nil {
			reached[a.Reached.ID] = a.Reached.UID
		}
		return nil
	})
	return reached, err
}

// Message sends a message and its body, to be stored by Store. readErr is r's:
// the message then is not stored. full asks for a Store before the next.
func (c *BackupClient) Message(ctx context.Context, mailbox string, m *MessageRow, r io.Reader) (full bool, readErr, err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.w.conn.Close() })
	defer stop()
	if err := c.w.put(backupRequest{Do: "message", Mailbox: mailbox, Row: &Row{Message: m}}); err != nil {
		return false, nil, cause(ctx, err)
	}
	n, readErr, err := c.w.putText(r)
	if err != nil {
		return false, readErr, cause(ctx, err)
	}
	if readErr == nil {
		c.staged++
		c.octets += n
	}
	return c.staged >= stageMessages || c.octets >= stageOctets, readErr, nil
}

// Store has the messages stored that were sent: they are on stable storage when
// it returns nil.
func (c *BackupClient) Store(ctx context.Context) error {
	want, stored := c.staged, 0
	c.staged, c.octets = 0, 0
	if want == 0 {
		return nil
	}
	err := c.ask(ctx, backupRequest{Do: "store"}, func(a *backupAnswer) error { stored += a.Stored; return nil })
	if err == nil && stored != want {
		err = fmt.Errorf("the server stored %d messages in the place of %d", stored, want)
	}
	return err
}

// Finish ends the restoration of an account, which can be used then.
func (c *BackupClient) Finish(ctx context.Context) error {
	return c.ask(ctx, backupRequest{Do: "finish"}, nil)
}

// GiveUp opens an account that was begun to be restored, as far as it is there.
func (c *BackupClient) GiveUp(ctx context.Context, account string) error {
	return c.ask(ctx, backupRequest{Do: "give up", Account: account}, nil)
}

// Into begins to put messages back into a mailbox of a user, which is made where
// it is not there, and tells there of each message it holds.
func (c *BackupClient) Into(ctx context.Context, user, mailbox string, there func(PutBackKey)) error {
	return c.ask(ctx, backupRequest{Do: "into", Account: user, Mailbox: mailbox}, func(a *backupAnswer) error {
		if a.There != nil {
			there(*a.There)
		}
		return nil
	})
}
