package imap

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// What is needed to copy mailboxes from a server that can do no more than
// RFC 3501.

// Examine selects a mailbox and changes nothing in it.
func (c *Client) Examine(ctx context.Context, name string) (*Selected, error) {
	s := &Selected{Name: name}
	if _, err := c.ask(ctx, func(u *untagged) error { return s.read(u) }, "EXAMINE ", quote(name)); err != nil {
		return nil, err
	}
	s.ReadOnly = true
	return s, nil
}

// maxUIDs bounds a mailbox.
const maxUIDs = 20_000_000

// UIDs returns those of all messages of the selected mailbox, in ascending order.
func (c *Client) UIDs(ctx context.Context, next uint32) (Set, error) {
	var all Set
	count := 0
	// In steps: one response of a large mailbox would be over any bound.
	const step = 100_000
	for first := uint64(1); first < uint64(next); first += step {
		var found []uint32
		err := c.do(ctx, func(u *untagged) error {
			if u.name != "SEARCH" {
				return nil
			}
			u.taken = true
			for _, v := range u.values {
				if v.kind == kindList {
					continue
				}
				uid, err := v.uid()
				if err != nil {
					return err
				}
				if uint64(uid) >= first && uint64(uid) < first+step {
					found = append(found, uid)
				}
			}
			return nil
		}, fmt.Sprintf("UID SEARCH UID %d:%d", first, min(first+step-1, uint64(next)-1)))
		if err != nil {
			return nil, err
		}
		if count += len(found); count > maxUIDs {
			return nil, fmt.Errorf("%w: more than %d messages", errMalformed, maxUIDs)
		}
		all = append(all, SetOf(found)...)
	}
	return all, nil
}

// Summaries tells each message of set its flags, size and date, with header the
// fields of Identity too.
func (c *Client) Summaries(ctx context.Context, set string, header bool, each func(Message) error) error {
	items := "UID FLAGS INTERNALDATE RFC822.SIZE"
	if header {
		items += " " + Identity
	}
	return c.fetch(ctx, set, items, each)
}

// atOnce is how many texts are asked for in one command.
const atOnce = 32

// Texts hands the texts of messages to take, each while it arrives; those that
// are gone are left out. The server is asked for many at a time, so that the
// way to it and back is not waited for at each. An error of take ends the
// connection.
func (c *Client) Texts(ctx context.Context, uids []uint32, take func(uid uint32, size int64, r io.Reader) error) error {
	for some := range slices.Chunk(uids, atOnce) {
		left := make(map[uint32]bool, len(some))
		for _, uid := range some {
			left[uid] = true
		}
		err := c.someTexts(ctx, some, left, take)
		if _, refused := Refused(err); err != nil && !refused {
			return err
		}
		if len(left) == 0 {
			continue
		}
		// Gone, or the server does not tell the UID before the text, or one of
		// them keeps it from answering for all.
		for _, uid := range some {
			if !left[uid] {
				continue
			}
			_, err := c.Body(ctx, uid, func(size int64, r io.Reader) error { return take(uid, size, r) })
			if _, refused := Refused(err); err != nil && !refused {
				return err
			}
		}
	}
	return nil
}

// someTexts asks for the texts of some messages in one command, and takes what
// it gets out of left.
func (c *Client) someTexts(ctx context.Context, some []uint32, left map[uint32]bool, take func(uid uint32, size int64, r io.Reader) error) error {
	once := func(uid uint32, size int64, r io.Reader) error {
		if !left[uid] {
			return nil // not asked for, there already, or not known which
		}
		delete(left, uid)
		return take(uid, size, r)
	}
	c.sink = func(size int64, r io.Reader) error { return once(c.reading.uid, size, progress{c, r}) }
	defer func() { c.sink = nil }()
	return c.do(ctx, func(u *untagged) error {
		if u.name != "FETCH" || len(u.values) != 1 {
			return nil
		}
		u.taken = true
		items := u.values[0].list
		for i := 0; i+1 < len(items); i += 2 {
			if v := items[i+1]; items[i].is("BODY[]") && v.kind == kindString { // short enough to be quoted
				if err := once(c.reading.uid, int64(len(v.text)), strings.NewReader(v.text)); err != nil {
					return err
				}
			}
		}
		return nil
	}, "UID FETCH "+SetOf(some).String()+" (UID BODY.PEEK[])")
}
