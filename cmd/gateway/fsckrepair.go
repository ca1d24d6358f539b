package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/queue"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
)

// fsckRepair is one thing that was mended.
type fsckRepair struct {
	Store    string `json:"store"`
	Repaired string `json:"repaired"` // how
	Finding  string `json:"finding"`
	Queue    string `json:"queue_id,omitempty"`
	Account  string `json:"account,omitempty"`
	Mailbox  string `json:"mailbox,omitempty"`
	UID      uint32 `json:"uid,omitempty"`
	Body     string `json:"body,omitempty"`
	Pack     string `json:"pack,omitempty"`
}

// mend repairs what is safe to. Counts that are too low come first: to take out
// a message must not end a body that another one needs. Those that are too high
// come last, when no message is left whose references are not known.
func (c *storeCheck) mend(ctx context.Context) error {
	salvage := &salvage{fs: fsx.OS(), dir: filepath.Join(c.file.DataDir, "salvage"), store: c.name}
	step := "repairing"
	c.progress.step.Store(&step)
	c.fsck.progress.Store(c.progress)
	defer c.fsck.progress.Store(nil)
	inPacks := func(f pack.Finding, how string) {
		repair := fsckRepair{Store: c.name, Repaired: how, Finding: string(f.Kind)}
		if f.Body != (store.Hash{}) {
			repair.Body = fmt.Sprintf("%x", f.Body)
		}
		if f.Pack != 0 {
			repair.Pack = fmt.Sprintf("%016x", f.Pack)
		}
		c.tell(repair, fmt.Sprintf("%s: repaired: %v: %s", c.name, f, how))
	}
	errs := []error{c.pack.Repair(ctx, c.inPacks, c.owners, inPacks)}
	errs = append(errs, c.pack.RepairReferences(ctx, c.owners, func() bool { return false }, salvage.body, inPacks))
	if errs[1] == nil && c.mailstore == nil {
		errs = append(errs, queue.Repair(ctx, c.kv, c.pack, salvage.message, func(f queue.Finding, how string) {
			c.tell(fsckRepair{Store: c.name, Repaired: how, Finding: string(f.Kind), Queue: string(f.Queue)},
				fmt.Sprintf("%s: repaired: %v: %s", c.name, f, how))
		}))
	}
	if c.mailstore != nil {
		errs = append(errs, c.mailstore.Repair(ctx, func(f mailstore.Finding, how string) {
			c.tell(fsckRepair{
				Store: c.name, Repaired: how, Finding: "mailbox is damaged", Account: f.Account, Mailbox: f.Mailbox, UID: uint32(f.UID),
			}, fmt.Sprintf("%s: repaired: %v: %s", c.name, f, how))
		}))
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: interrupted while repairing", c.name)
	}
	errs = append(errs, c.pack.RepairReferences(ctx, c.owners, func() bool { return c.unreadable == 0 }, salvage.body, inPacks))
	c.tellErrors(errors.Join(errs...))
	return nil
}

// tellErrors tells what kept something from being repaired.
func (c *storeCheck) tellErrors(err error) {
	if err == nil {
		return
	}
	for line := range strings.Lines(err.Error()) {
		c.log.Error("repair", "store", c.name, "err", strings.TrimSpace(line))
	}
}

// salvage is a directory of what repairs took out: content as NAME.eml, and
// what is known of it as NAME.json.
type salvage struct {
	fs    fsx.FS
	dir   string
	store string
}

// salvagedMessage is the JSON beside a message's content.
type salvagedMessage struct {
	Store      string              `json:"store"`
	Queue      mail.QueueID        `json:"queue_id"`
	Why        string              `json:"why"`
	Part       string              `json:"part,omitempty"`
	Arrived    *time.Time          `json:"arrival_time,omitempty"`
	Sender     *mail.Address       `json:"sender,omitempty"` // absent where it is not known, "" for the null reverse-path
	EnvelopeID string              `json:"envelope_id,omitempty"`
	Recipients []salvagedRecipient `json:"recipients"`
	Records    map[string][]byte   `json:"records"` // as they are, in base64, by their keys in hexadecimal digits
}

type salvagedRecipient struct {
	Address  mail.Address `json:"address"`
	Accepted mail.Address `json:"accepted_as"`
	Progress string       `json:"progress"` // pending, delivered, failed or unknown
}

// message keeps what is left of a queued message. It is durable on return.
func (s *salvage) message(m queue.Salvage) error {
	out := salvagedMessage{
		Store: s.store, Queue: m.Queue, Why: m.Why.Error(), Part: m.Part, EnvelopeID: m.Envelope.EnvelopeID,
		Recipients: []salvagedRecipient{}, Records: m.Records,
	}
	if !m.Arrived.IsZero() {
		out.Arrived, out.Sender = &m.Arrived, &m.Envelope.ReversePath
	}
	for _, r := range m.Recipients {
		out.Recipients = append(out.Recipients, salvagedRecipient{r.Address, r.Accepted, r.Progress})
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	if err := s.fs.MkdirAll(s.dir); err != nil {
		return err
	}
	name := strings.ReplaceAll(strings.TrimSpace(s.store+"-"+salvageName(m.Queue)+" "+m.Part), " ", "-")
	if m.Body != nil {
		if err := s.write(name+".eml", m.Body); err != nil {
			return err
		}
	}
	return fsx.WriteFile(s.fs, filepath.Join(s.dir, name+".json"), append(text, '\n'))
}

// salvageName is an id as it may stand in a file's name: the key it comes from
// may be damaged.
func salvageName(id mail.QueueID) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, string(id))
}

// body keeps a body that nobody refers to. It is durable on return.
func (s *salvage) body(hash store.Hash, body store.Body) error {
	if err := s.fs.MkdirAll(s.dir); err != nil {
		return err
	}
	return s.write(fmt.Sprintf("%s-body-%x.eml", s.store, hash), body)
}

// write writes a file whole or not at all.
func (s *salvage) write(name string, content io.Reader) error {
	path := filepath.Join(s.dir, name)
	temporary := path + ".new"
	if err := s.fs.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := s.fs.Create(temporary)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.NewOffsetWriter(f, 0), content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		_ = s.fs.Remove(temporary) // it is in nobody's way
		return err
	}
	if err := s.fs.Rename(temporary, path); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir)
}
