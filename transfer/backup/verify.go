package backup

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/transfer"
)

// Finding is something of a backup that is not whole, and where.
type Finding struct {
	// Run and Account name one place of those that it is missed in; "" where it
	// is about more.
	Run, Account, Mailbox string
	UID                   uint32
	Err                   error
}

func (f Finding) Error() string {
	var place []string
	if f.Run != "" {
		place = append(place, "run "+f.Run)
	}
	if f.Account != "" {
		place = append(place, fmt.Sprintf("account %q", f.Account))
	}
	if f.Mailbox != "" {
		place = append(place, fmt.Sprintf("mailbox %q", f.Mailbox))
	}
	if f.UID != 0 {
		place = append(place, fmt.Sprintf("UID %d", f.UID))
	}
	if len(place) == 0 {
		return f.Err.Error()
	}
	return strings.Join(place, ", ") + ": " + f.Err.Error()
}

// Unwrap returns what is wrong, without the place.
func (f Finding) Unwrap() error { return f.Err }

// Verified counts what was looked at.
type Verified struct {
	Runs, Manifests  int
	Messages, Bodies int64
	// Octets are those of bodies that were read.
	Octets int64
	// Interrupted runs, and bodies that no run names, which prune removes.
	Interrupted int
	Unnamed     int64
}

// bodiesAtATime bounds how many bodies are known at a time, by going through
// the manifests several times: a variable so that tests need not have as many.
const bodiesAtATime = 4 << 20

// Verify reads all runs, or the named ones, their manifests, and deep their
// bodies too; otherwise bodies must only be there. found is told what is not
// whole. Its own error is one that keeps it from going on.
func (r *Repository) Verify(ctx context.Context, runs []string, deep bool, found func(Finding), progress func(Verified)) (Verified, error) {
	v := &verifier{Repository: r, ctx: ctx, found: found, progress: progress}
	all, parts, err := r.runFiles()
	if err != nil {
		return v.seen, err
	}
	v.seen.Interrupted = len(parts)
	whole := runs == nil
	if whole {
		runs = all
	}
	for _, name := range runs {
		if err := v.run(name); err != nil {
			return v.seen, err
		}
	}
	parted := max(1, int((v.total+bodiesAtATime-1)/bodiesAtATime))
	for part := range parted {
		from, to := 256*part/parted, 256*(part+1)/parted
		if err := v.bodies(from, to, deep, whole); err != nil {
			return v.seen, err
		}
	}
	return v.seen, nil
}

type verifier struct {
	*Repository
	ctx      context.Context
	found    func(Finding)
	progress func(Verified)
	seen     Verified
	// manifests are those that are whole, each once.
	manifests []placed
	known     map[string]bool
	total     int64
}

// placed is a manifest, and a run it is of.
type placed struct {
	run string
	RunAccount
}

func (v *verifier) tell() {
	if v.progress != nil {
		v.progress(v.seen)
	}
}

func (v *verifier) run(name string) error {
	run, err := v.Run(name)
	if errors.Is(err, ErrDamaged) {
		v.found(Finding{Run: name, Err: err})
		return nil
	} else if err != nil {
		return err
	}
	v.seen.Runs++
	for _, a := range run.Accounts {
		if a.Failed != "" || v.known[a.ID+a.Manifest] {
			continue
		}
		if v.known == nil {
			v.known = make(map[string]bool)
		}
		v.known[a.ID+a.Manifest] = true
		err := v.manifest(a)
		if v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		if err != nil {
			v.found(Finding{Run: name, Account: a.Name, Err: err})
			continue
		}
		v.manifests = append(v.manifests, placed{name, a})
		v.tell()
	}
	return nil
}

// manifest reads one to its end.
func (v *verifier) manifest(a RunAccount) error {
	n, octets := 0, int64(0)
	err := v.eachRow(a, func(_ *transfer.MailboxRow, r *transfer.Row) error {
		if r.Message != nil {
			n++
			octets += r.Message.Octets + int64(len(r.Message.Trace))
		}
		if r.Account != nil && r.Account.ID != a.ID {
			return fmt.Errorf("%w: it is of account %q", ErrDamaged, r.Account.Name)
		}
		return v.ctx.Err()
	})
	if err == nil && (n != a.Messages || octets != a.Octets) {
		err = fmt.Errorf("%w: it has %d messages with %d octets, the run says %d with %d", ErrDamaged, n, octets, a.Messages, a.Octets)
	}
	v.seen.Manifests++
	v.seen.Messages += int64(n)
	v.total += int64(n)
	return err
}

// eachRow calls look for the rows of a manifest, with the mailbox they are in.
func (r *Repository) eachRow(a RunAccount, look func(in *transfer.MailboxRow, row *transfer.Row) error) error {
	m, err := r.manifest(a.ID, a.Manifest)
	if err != nil {
		return err
	}
	defer m.Close()
	for {
		row, err := m.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = look(m.in, row)
		}
		if err != nil {
			return err
		}
	}
}

// place is where a body is missed, and how long it is.
type place struct {
	manifest int32
	uid      uint32
	octets   int64
}

// named collects the bodies that manifests name whose first octet is in
// [from, to), with a place for each.
func (r *Repository) named(ctx context.Context, manifests []placed, from, to int) (map[store.Hash]place, error) {
	names := make(map[store.Hash]place)
	for i, p := range manifests {
		err := r.eachRow(p.RunAccount, func(_ *transfer.MailboxRow, row *transfer.Row) error {
			if row.Message == nil {
				return ctx.Err()
			}
			ref, err := row.Message.Ref()
			if err != nil {
				return err
			}
			if first := int(ref.Hash[0]); first >= from && first < to {
				if _, known := names[ref.Hash]; !known {
					names[ref.Hash] = place{int32(i), row.Message.UID, ref.Octets}
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return names, nil
}

// bodies looks at those whose first octet is in [from, to).
func (v *verifier) bodies(from, to int, deep, whole bool) error {
	names, err := v.named(v.ctx, v.manifests, from, to)
	if err != nil {
		return err
	}
	for first := from; first < to; first++ {
		files, err := v.list(bodiesName, fmt.Sprintf("%02x", first))
		if err != nil {
			return err
		}
		there := make(map[store.Hash]bool, len(files))
		for _, file := range files {
			h, err := hashOf(strings.TrimSuffix(file, packed))
			if err != nil || !strings.HasSuffix(file, packed) {
				continue
			}
			there[h] = true
			if _, ok := names[h]; !ok && whole {
				v.seen.Unnamed++
			}
		}
		for h, at := range names {
			if int(h[0]) != first {
				continue
			}
			if err := v.body(h, at, there[h], deep); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *verifier) body(h store.Hash, at place, there, deep bool) error {
	v.seen.Bodies++
	ref := store.Ref{Hash: h, Octets: at.octets}
	var err error
	switch {
	case !there || !deep && !v.Has(h):
		err = fmt.Errorf("%w: body %s is missing, or empty", ErrDamaged, v.relative(v.bodyPath(h)))
	case deep:
		if err = v.readBody(ref); err != nil {
			err = fmt.Errorf("body %s: %w", v.relative(v.bodyPath(h)), err)
		}
		v.seen.Octets += at.octets
	}
	if v.ctx.Err() != nil {
		return v.ctx.Err()
	}
	if err != nil {
		p := v.manifests[at.manifest]
		v.found(Finding{Run: p.run, Account: p.Name, Mailbox: v.mailboxOf(p.RunAccount, h), UID: at.uid, Err: err})
	}
	if v.seen.Bodies%256 == 0 {
		v.tell()
	}
	return nil
}

func (r *Repository) relative(name string) string {
	if short, err := filepath.Rel(r.dir, name); err == nil {
		return short
	}
	return name
}

func (r *Repository) readBody(ref store.Ref) error {
	body, err := r.Body(ref)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(io.Discard, body)
	return err
}

// mailboxOf finds the mailbox of a message for who has to be told of it.
func (v *verifier) mailboxOf(a RunAccount, h store.Hash) (name string) {
	_ = v.eachRow(a, func(in *transfer.MailboxRow, r *transfer.Row) error { // it was read before
		if r.Message != nil && r.Message.Body == hex.EncodeToString(h[:]) {
			name = in.Name
			return io.EOF
		}
		return nil
	})
	return name
}

// Difference is how an account in the store differs from a backup of it.
type Difference struct {
	Account string
	// Same: the store has just what the backup has. Otherwise what differs is
	// counted, and may have come after the backup.
	Same bool
	// Newer are messages that only the store has, Missing those that only the
	// backup has, Changed those whose flags differ.
	Newer, Missing, Changed int
	// Wrong are messages of one UID and mailbox that are not the same message:
	// that must not be.
	Wrong []string
}

// Compare reads an account of the store and compares it with the backup. It
// holds some 100 octets for each message.
func (r *Repository) Compare(ctx context.Context, source Source, a RunAccount) (*Difference, error) {
	type key struct {
		mailbox string
		uid     uint32
	}
	type value struct{ constant, flags string }
	d := &Difference{Account: a.Name}
	live, names := make(map[key]value), make(map[string]string)
	of := func(m *transfer.MessageRow) value {
		return value{m.EmailID + m.Body + m.Date.UTC().String(), strings.Join(m.Flags, " ")}
	}
	in, position := "", ""
	err := source.Photograph(ctx, a.ID, func(_ []byte, row *transfer.Row) error {
		switch {
		case row.Account != nil:
			position = row.Account.Position
		case row.Mailbox != nil:
			in = row.Mailbox.ID
		case row.Message != nil:
			live[key{in, row.Message.UID}] = of(row.Message)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = r.eachRow(a, func(box *transfer.MailboxRow, row *transfer.Row) error {
		if row.Message == nil {
			return ctx.Err()
		}
		names[box.ID] = box.Name
		k := key{box.ID, row.Message.UID}
		now, there := live[k]
		delete(live, k)
		was := of(row.Message)
		switch {
		case !there:
			d.Missing++
		case now.constant != was.constant:
			d.Wrong = append(d.Wrong, fmt.Sprintf("mailbox %q, UID %d", box.Name, row.Message.UID))
		case now.flags != was.flags:
			d.Changed++
		}
		return nil
	})
	d.Newer = len(live)
	d.Same = position == a.Position
	if d.Same && d.Newer+d.Missing+d.Changed > 0 {
		d.Wrong = append(d.Wrong, "what is there differs although nothing changed since the backup")
	}
	return d, err
}
