package directory

import (
	"context"
	"iter"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// Table maps a name to addresses: a file, or a lookup in the manner of Postfix.
// It is asked about addresses, "@domain" and bare local-parts. A value \name is
// the mailbox of that name, whatever the tables say of it.
type Table = table.Table

// TargetUse is what the entries of tables of aliases mean: names with the
// addresses they stand for, with commas between.
var TargetUse = table.Use{Value: func(text string) ([]string, error) { return table.SplitList(text), nil }, NoReferences: true}

// NoEntries is a Searcher that holds nothing, for a directory of tables only.
type NoEntries struct{}

// Search implements Searcher.
func (NoEntries) Search(context.Context, Request) ([]Entry, error) { return nil, nil }

// tableKeys are the texts under which a table may hold one of the wanted keys,
// in the order of Postfix's virtual(5).
func (d *Directory) tableKeys(keys []mail.Address) iter.Seq[table.Form] {
	return func(yield func(table.Form) bool) {
		for i, key := range keys {
			if key.Local != "" && !yield(table.Form{Key: key.String(), First: i == 0}) {
				return
			}
		}
		for _, key := range keys {
			if key.Local != "" && key.Domain == d.cfg.DefaultDomain && !yield(table.Form{Key: string(key.Local)}) {
				return
			}
		}
		for _, key := range keys {
			if key.Local == "" && !yield(table.Form{Key: "@" + string(key.Domain)}) {
				return
			}
		}
	}
}

// inTables looks the keys up in all tables and works on what the first hit
// stands for. It is false when no table has any of them.
func (r *resolution) inTables(ctx context.Context, w wanted, keys []mail.Address, depth int) (found bool, err error) {
	if len(r.d.tables) == 0 {
		return false, nil
	}
	for form := range r.d.tableKeys(keys) {
		for _, t := range r.d.tables {
			text := form.Key
			if table.IsWhole(t) {
				if !form.First {
					continue
				}
				text = w.address.String()
			}
			targets, err := r.askTable(ctx, t, text)
			if err != nil {
				return false, status.Errorf(status.DirectoryDown, "table %s: %w", t.Name(), err)
			}
			if len(targets) > 0 {
				r.decideTargets(t, text, targets)
				return true, r.targets(ctx, w, targets, depth)
			}
		}
	}
	return false, nil
}

// askTable looks a key up; what a table searches for is part of the explanation.
func (r *resolution) askTable(ctx context.Context, table Table, key string) ([]string, error) {
	var found []string
	var err error
	if q, ok := table.(*QueryTable); ok {
		found, err = q.lookup(ctx, key, r.trace)
	} else {
		found, err = table.Lookup(ctx, key)
	}
	if len(found) == 0 && err == nil {
		r.trace.decide("table %s: nothing for %s", table.Name(), key)
	}
	return found, err
}

func (r *resolution) decideTargets(table Table, key string, targets []string) {
	if r.trace != nil { // joining thousands costs
		r.trace.decide("table %s: %s stands for %s", table.Name(), key, strings.Join(targets, ", "))
	}
}

// targets works on the addresses an alias stands for. One that is the alias
// itself means the mailbox of that name: a copy besides the forwards.
func (r *resolution) targets(ctx context.Context, w wanted, targets []string, depth int) error {
	var names, mailboxes []string
	for _, target := range targets {
		if name, ok := strings.CutPrefix(strings.TrimSpace(target), `\`); ok {
			mailboxes = append(mailboxes, name)
			continue
		}
		names = append(names, target)
	}
	for i, list := range [][]string{names, mailboxes} {
		for _, a := range r.memberAddresses(list) {
			if err := r.target(ctx, w, a, i == 1, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// target works on one of them.
func (r *resolution) target(ctx context.Context, w wanted, a mail.Address, mailbox bool, depth int) error {
	if a.Fold() != w.address.Fold() {
		if !mailbox {
			return r.address(ctx, a, depth+1)
		}
		var served bool
		if w, served = r.d.want(a); !served {
			return r.address(ctx, a, depth+1)
		}
	}
	if r.namesOnly {
		return nil
	}
	h, err := r.d.find(ctx, w, r.trace)
	if status.Of(err) == status.NoSuchUser {
		return nil
	}
	if err != nil {
		return err
	}
	return r.expand(ctx, h, depth+1)
}
