package directory

import (
	"context"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Table maps a name to addresses: an alias file, or a Lookup in the manner of
// Postfix. It may be used concurrently.
type Table interface {
	// Name tells the table in explanations.
	Name() string
	// Lookup returns what key, an address, "@domain" or a bare local-part,
	// stands for; nothing when the table has not got it. An error means that
	// nobody knows.
	Lookup(ctx context.Context, key string) ([]string, error)
}

// NoEntries is a Searcher that holds nothing, for a directory of tables only.
type NoEntries struct{}

// Search implements Searcher.
func (NoEntries) Search(context.Context, Request) ([]Entry, error) { return nil, nil }

// tableKeys are the texts under which a table may hold one of the wanted keys,
// in the order of Postfix's virtual(5).
func (d *Directory) tableKeys(key mail.Address) []string {
	if key.Local == "" {
		return []string{"@" + string(key.Domain)}
	}
	keys := []string{key.String()}
	if key.Domain == d.cfg.DefaultDomain {
		keys = append(keys, string(key.Local))
	}
	return keys
}

// inTables looks the keys up in all tables and works on what the first hit
// stands for. It is false when no table has any of them.
func (r *resolution) inTables(ctx context.Context, w wanted, keys []mail.Address, depth int) (found bool, err error) {
	for _, key := range keys {
		for _, text := range r.d.tableKeys(key) {
			for _, table := range r.d.tables {
				targets, err := r.askTable(ctx, table, text)
				if err != nil {
					return false, status.Errorf(status.DirectoryDown, "table %s: %w", table.Name(), err)
				}
				if len(targets) > 0 {
					r.decideTargets(table, text, targets)
					return true, r.targets(ctx, w, targets, depth)
				}
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
	for _, a := range r.memberAddresses(targets) {
		if a.Fold() != w.address.Fold() {
			if err := r.address(ctx, a, depth+1); err != nil {
				return err
			}
			continue
		}
		if r.namesOnly {
			continue
		}
		h, err := r.d.find(ctx, w, r.trace)
		if status.Of(err) == status.NoSuchUser {
			continue
		}
		if err != nil {
			return err
		}
		if err := r.expand(ctx, h, depth+1); err != nil {
			return err
		}
	}
	return nil
}
