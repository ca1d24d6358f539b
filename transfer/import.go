package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode"
)

// Options are what an import may be told.
type Options struct {
	// Into is a mailbox below which all folders go; INBOX goes to Into itself.
	Into string
	// Only and Exclude are patterns for names (path.Match, and a level above
	// counts). Only empty: all.
	Only, Exclude []string
	// KeepUIDs keeps UIDVALIDITY and UIDs where the mailbox is empty.
	KeepUIDs bool
	// Dedupe leaves out what the mailbox holds already by KeyOf. The source has
	// to tell Key.
	Dedupe bool
	// DryRun only counts.
	DryRun bool
	// Nonce makes messages differ from those of all imports before; "" as a rule.
	Nonce string
}

// Summary is what an import did.
type Summary struct {
	Folders  int   `json:"folders"`
	Seen     int64 `json:"seen"`   // messages of the source
	Copied   int64 `json:"copied"` // stored now; with DryRun: to be stored
	Octets   int64 `json:"octets"`
	Known    int64 `json:"known"`   // stored by an import before
	Present  int64 `json:"present"` // left out by Dedupe
	Flags    int64 `json:"flags"`   // messages whose flags were taken over
	Skipped  int64 `json:"skipped"`
	Skips    []Skip
	Notes    []string
	Expected int64 `json:"-"` // messages in all folders, where the source knows
}

// keptSkips bounds what is told one by one.
const keptSkips = 1000

func (s *Summary) skip(k Skip) {
	s.Skipped++
	if len(s.Skips) < keptSkips {
		s.Skips = append(s.Skips, k)
	}
}

// Import brings everything of a source into the account that c is about.
// progress, unless nil, is called after each piece. The Summary is valid after
// an error, too; to call it again then goes on where it ended.
func Import(ctx context.Context, c *Client, source Source, state *State, o Options, progress func(*Summary)) (*Summary, error) {
	run := &importing{Client: c, source: source, state: state, Options: o, sum: &Summary{}, progress: progress}
	folders, skipped, err := source.Folders(ctx)
	for _, k := range skipped {
		run.sum.skip(k)
	}
	if err != nil {
		return run.sum, err
	}
	folders = slices.DeleteFunc(folders, func(f Folder) bool { return !run.wanted(f.Name) })
	for _, f := range folders {
		run.sum.Expected += int64(f.Messages)
	}
	for _, f := range folders {
		if err := run.folder(ctx, f); err != nil {
			return run.sum, fmt.Errorf("folder %q: %w", f.Name, err)
		}
	}
	return run.sum, nil
}

type importing struct {
	*Client
	Options
	source   Source
	state    *State
	sum      *Summary
	progress func(*Summary)
}

func (r *importing) wanted(name string) bool {
	return (len(r.Only) == 0 || Matches(r.Only, name)) && !Matches(r.Exclude, name)
}

// Matches reports whether a pattern fits name or a level above it.
func Matches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		for above := name; above != "." && above != "/"; above = path.Dir(above) {
			if ok, err := path.Match(pattern, above); err == nil && ok || above == pattern {
				return true
			}
		}
	}
	return false
}

// target is where a folder goes.
func (r *importing) target(name string) string {
	name = strings.Map(func(c rune) rune {
		if c == '*' || c == '%' || unicode.IsControl(c) || c == '\u2028' || c == '\u2029' || c == '\ufeff' {
			return '_' // the store has no such names
		}
		return c
	}, name)
	switch {
	case r.Into == "":
		return name
	case name == "INBOX":
		return r.Into
	}
	return r.Into + "/" + strings.TrimPrefix(name, "INBOX/")
}

// folder brings one folder. What is wrong with it alone is told and skipped.
func (r *importing) folder(ctx context.Context, f Folder) error {
	to := f
	to.Name = r.target(f.Name)
	if r.Into != "" {
		to.SpecialUse = ""
	}
	if r.DryRun {
		return r.count(ctx, f)
	}
	now, note, err := r.Ensure(ctx, to, r.KeepUIDs && f.UIDValidity > 0)
	var refused *Refused
	if errors.As(err, &refused) {
		r.sum.skip(Skip{Folder: f.Name, Why: refused.Text})
		return nil
	} else if err != nil {
		return err
	}
	r.sum.Folders++
	if f.Absent {
		return nil
	}
	if note != "" {
		r.sum.Notes = append(r.sum.Notes, fmt.Sprintf("%s: %s", to.Name, note))
	}
	fr := &folderRun{importing: r, from: f, to: now}
	fr.keep = r.KeepUIDs && f.UIDValidity > 0 && now.UIDValidity == f.UIDValidity
	if fr.state, err = r.state.open(f.Name, now.ID); err != nil {
		return err
	}
	err = fr.run(ctx)
	return errors.Join(err, fr.state.close())
}

// count only looks.
func (r *importing) count(ctx context.Context, f Folder) error {
	if f.Absent {
		return nil
	}
	r.sum.Folders++
	return r.source.Messages(ctx, f.Name, func(items []Item) error {
		for i := range items {
			r.sum.Seen++
			r.sum.Copied++
			r.sum.Octets += items[i].Octets
		}
		r.tell()
		return ctx.Err()
	}, r.sum.skip)
}

func (r *importing) tell() {
	if r.progress != nil {
		r.progress(r.sum)
	}
}

// folderRun is the import of one folder.
type folderRun struct {
	*importing
	from, to Folder
	state    *folderState
	present  map[string]bool // keys in the mailbox, with Dedupe
	keep     bool
	staged   []*Item
}

func (r *folderRun) run(ctx context.Context) error {
	if r.Dedupe {
		if err := r.readPresent(ctx); err != nil {
			return err
		}
	}
	err := r.source.Messages(ctx, r.from.Name, func(items []Item) error { return r.piece(ctx, items) }, r.sum.skip)
	if err != nil {
		return errors.Join(err, r.abandon(ctx))
	}
	if r.keep && r.from.UIDNext > 0 {
		return r.Reserve(ctx, r.to.Name, r.from.UIDNext)
	}
	return nil
}

// abandon stores what was staged before an error of the source, if it can.
func (r *folderRun) abandon(ctx context.Context) error {
	if len(r.staged) == 0 || ctx.Err() != nil {
		return nil
	}
	return r.commit(ctx)
}

func (r *folderRun) readPresent(ctx context.Context) error {
	r.present = make(map[string]bool)
	if _, err := r.Picture(ctx); err != nil {
		return err
	}
	return r.Index(ctx, r.to.Name, true, func(m Message) error {
		if m.Key != "" {
			r.present[m.Key] = true
		}
		return nil
	})
}

// piece brings some messages.
func (r *folderRun) piece(ctx context.Context, items []Item) error {
	var fresh []Item
	var changes []FlagsChange
	var changed []Item
	for _, it := range items {
		r.sum.Seen++
		known, ok := r.state.done[it.Key]
		switch {
		case !ok && r.present[it.Message.Key] && it.Message.Key != "":
			r.sum.Present++
			r.state.note(it.Key, done{0, join(it.Flags)})
		case !ok:
			fresh = append(fresh, it)
		case known.flags == join(it.Flags) || known.uid == 0:
			r.sum.Known++
		default:
			r.sum.Known++
			changes = append(changes, difference(known, it.Flags))
			changed = append(changed, it)
		}
	}
	if len(changes) > 0 {
		if err := r.Flags(ctx, r.to.Name, changes); err != nil {
			return err
		}
		for i, it := range changed {
			r.sum.Flags++
			r.state.note(it.Key, done{changes[i].UID, join(it.Flags)})
		}
	}
	if err := r.bring(ctx, fresh); err != nil {
		return err
	}
	r.tell()
	return r.state.sync()
}

func join(flags []string) string {
	flags = slices.Clone(flags)
	slices.Sort(flags)
	return strings.Join(slices.Compact(flags), " ")
}

// difference is what happened to the flags at the source.
func difference(before done, now []string) FlagsChange {
	c := FlagsChange{UID: before.uid}
	old := strings.Fields(before.flags)
	for _, f := range now {
		if !slices.Contains(old, f) {
			c.Add = append(c.Add, f)
		}
	}
	for _, f := range old {
		if !slices.Contains(now, f) {
			c.Remove = append(c.Remove, f)
		}
	}
	return c
}

// bring stores messages that are new.
func (r *folderRun) bring(ctx context.Context, fresh []Item) error {
	if len(fresh) == 0 {
		return nil
	}
	err := r.source.Texts(ctx, r.from.Name, fresh, func(it *Item, text io.Reader) error {
		m := it.Message
		m.ID = digest("import", r.source.Name(), r.from.Name, it.Key, r.to.ID, r.Nonce)
		if m.Key = ""; !r.keep {
			m.UID = 0
		}
		counted := &counting{Reader: text}
		full, readErr, err := r.Stage(ctx, r.to.Name, m, counted)
		if err != nil {
			return err
		}
		if readErr != nil {
			return readErr
		}
		staged := *it
		staged.Octets = counted.n
		r.staged = append(r.staged, &staged)
		if full {
			return r.commit(ctx)
		}
		return nil
	})
	return errors.Join(err, r.abandon(ctx))
}

type counting struct {
	io.Reader
	n int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// commit stores what is staged, and then notes it.
func (r *folderRun) commit(ctx context.Context) error {
	staged := r.staged
	r.staged = nil
	stored, err := r.Client.Commit(ctx)
	if err != nil {
		return err
	}
	var failed error
	for i, s := range stored {
		it := staged[i]
		switch {
		case s.Error != "":
			r.sum.skip(Skip{Folder: r.from.Name, Message: it.Key, Why: s.Error})
			if s.Final && failed == nil {
				failed = &Refused{s.Error}
			}
			continue
		case s.Repeated:
			r.sum.Known++
		default:
			r.sum.Copied++
			r.sum.Octets += it.Octets
		}
		r.state.note(it.Key, done{s.UID, join(it.Flags)})
		if r.present != nil && it.Message.Key != "" {
			r.present[it.Message.Key] = true
		}
	}
	if err := r.state.sync(); err != nil {
		return err
	}
	r.tell()
	return failed
}
