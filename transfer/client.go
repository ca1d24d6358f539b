package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
)

// Bounds of what is staged before it is stored.
const (
	stageMessages = 64
	stageOctets   = 16 << 20
)

// Client is the end that asks. It is not safe for concurrent use. After an
// error that is not a Refused the conversation is of no more use.
type Client struct {
	w      *wire
	staged int
	octets int64
}

// Refused is what the other end says when it does not do something.
type Refused struct{ Text string }

func (r *Refused) Error() string { return r.Text }

// NewClient talks to a Serve at the other end of conn. The caller closes conn.
func NewClient(conn net.Conn) *Client { return &Client{w: newWire(conn)} }

// ask sends a request and reads the answers to the end.
func (c *Client) ask(ctx context.Context, q request, each func(*answer) error) error {
	stop := context.AfterFunc(ctx, func() { _ = c.w.conn.Close() })
	defer stop()
	err := c.w.put(q)
	if err == nil {
		err = c.w.bw.Flush()
	}
	for err == nil {
		var a answer
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
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the server ended the conversation")
	}
	return err
}

// Folders lists the mailboxes and subscriptions.
func (c *Client) Folders(ctx context.Context) (all []Folder, err error) {
	err = c.ask(ctx, request{Do: "folders"}, func(a *answer) error {
		if a.Folder != nil {
			all = append(all, *a.Folder)
		}
		return nil
	})
	return all, err
}

// Ensure makes a mailbox where there is none, subscribes to it if it is to be,
// and returns it as it is. With keep it gets f's UIDVALIDITY and UIDNEXT; note
// tells why not.
func (c *Client) Ensure(ctx context.Context, f Folder, keep bool) (now Folder, note string, err error) {
	err = c.ask(ctx, request{Do: "ensure", Folder: &f, Keep: keep}, func(a *answer) error {
		if a.Folder != nil {
			now, note = *a.Folder, a.Note
		}
		return nil
	})
	return now, note, err
}

// Reserve has the mailbox's next UID be next at least.
func (c *Client) Reserve(ctx context.Context, folder string, next uint32) error {
	return c.ask(ctx, request{Do: "reserve", Folder: &Folder{Name: folder, UIDNext: next}}, nil)
}

// Stage sends a message for folder, to be stored by Commit. readErr is r's: the
// message then is not staged. full asks for a Commit before the next.
func (c *Client) Stage(ctx context.Context, folder string, m Message, r io.Reader) (full bool, readErr, err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.w.conn.Close() })
	defer stop()
	if err := c.w.put(request{Do: "stage", Folder: &Folder{Name: folder}, Message: &m}); err != nil {
		return false, nil, err
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

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Commit stores what was staged, and tells of each in order.
func (c *Client) Commit(ctx context.Context) (stored []Stored, err error) {
	want := c.staged
	c.staged, c.octets = 0, 0
	if want == 0 {
		return nil, nil
	}
	err = c.ask(ctx, request{Do: "commit"}, func(a *answer) error {
		if a.Stored != nil {
			stored = append(stored, *a.Stored)
		}
		return nil
	})
	if err == nil && len(stored) != want {
		err = fmt.Errorf("the server told of %d messages in the place of %d", len(stored), want)
	}
	return stored, err
}

// Flags changes flags of messages. Those that are gone are passed over.
func (c *Client) Flags(ctx context.Context, folder string, changes []FlagsChange) error {
	for some := range slices.Chunk(changes, 200) {
		if err := c.ask(ctx, request{Do: "flags", Folder: &Folder{Name: folder}, Changes: some}, nil); err != nil {
			return err
		}
	}
	return nil
}

// Picture has the other end hold how all mailboxes are now, for Index and
// Bodies, and returns them.
func (c *Client) Picture(ctx context.Context) (all []Folder, err error) {
	err = c.ask(ctx, request{Do: "picture"}, func(a *answer) error {
		if a.Folder != nil {
			all = append(all, *a.Folder)
		}
		return nil
	})
	return all, err
}

// Index tells of each message of a mailbox of the Picture, in the order of
// UIDs, with keys its Key. Those expunged since are left out.
func (c *Client) Index(ctx context.Context, folder string, keys bool, each func(Message) error) error {
	return c.ask(ctx, request{Do: "index", Folder: &Folder{Name: folder}, Keys: keys}, func(a *answer) error {
		if a.Message == nil {
			return nil
		}
		return each(*a.Message)
	})
}

// Texts hands the texts of messages of the Picture to take, trace and all; what
// it leaves is passed over. Those of messages that are gone are left out.
func (c *Client) Texts(ctx context.Context, folder string, uids []uint32, take func(Message, io.Reader) error) error {
	for some := range slices.Chunk(uids, 500) {
		err := c.ask(ctx, request{Do: "texts", Folder: &Folder{Name: folder}, UIDs: some}, func(a *answer) error {
			if a.Message == nil || !a.Text {
				return nil
			}
			t := &text{w: c.w}
			taken := take(*a.Message, t)
			if err := t.finish(); err != nil {
				return err
			}
			return taken
		})
		if err != nil {
			return err
		}
	}
	return nil
}
