package backup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/transfer"
)

// Keep says which runs stay: of each kind of period, the latest run of each of
// the last so many periods that have one.
type Keep struct {
	Last, Daily, Weekly, Monthly, Yearly int
}

// IsZero reports whether nothing would stay.
func (k Keep) IsZero() bool { return k == Keep{} }

// keeps divides runs, the newest first, into those that stay and those that go.
// Runs of some accounts only count by themselves, so that they keep no run of all
// from staying.
func (k Keep) keeps(runs []*Run) (stay, gone []*Run) {
	kept := make(map[*Run]bool)
	for _, whole := range []bool{true, false} {
		for _, period := range []struct {
			n  int
			of func(time.Time) string
		}{
			{k.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
			{k.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprint(y, "w", w) }},
			{k.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
			{k.Yearly, func(t time.Time) string { return t.Format("2006") }},
		} {
			last, n := "", 0
			for _, r := range runs {
				if name := period.of(r.Begun.Local()); r.Whole == whole && name != last && n < period.n {
					kept[r], last, n = true, name, n+1
				}
			}
		}
		n := 0
		for _, r := range runs {
			if r.Whole == whole && n < k.Last {
				kept[r], n = true, n+1
			}
		}
	}
	for _, r := range runs {
		if kept[r] {
			stay = append(stay, r)
		} else {
			gone = append(gone, r)
		}
	}
	return stay, gone
}

// Pruned is what Prune removed, or would.
type Pruned struct {
	Kept, Removed []string
	Manifests     int
	Bodies        int64
	// Octets are those of files that were removed.
	Octets int64
}

// Pruning is how far a Prune is.
type Pruning struct {
	// Manifests were read, of so many; before anything is removed each of them is.
	Manifests, Of int
	// Share is the part of the bodies that was looked at behind that, in percent.
	Share int
	Pruned
}

// Prune removes runs that keep does not name, then the manifests and bodies
// that no run names; with dry it only tells. The caller holds the Lock, alone.
// After an interruption it is called again. It removes nothing while a run
// cannot be read: what that names is not known. progress, unless nil, is told often.
func (r *Repository) Prune(ctx context.Context, keep Keep, dry bool, progress func(Pruning)) (*Pruned, error) {
	if keep.IsZero() {
		return nil, errors.New("no run would stay")
	}
	names, parts, err := r.runFiles()
	if err != nil {
		return nil, err
	}
	var runs []*Run
	for i := len(names) - 1; i >= 0; i-- {
		run, err := r.Run(names[i])
		if err != nil {
			return nil, fmt.Errorf("nothing is removed: what this run names is not known: %w; remove its file to do without it", err)
		}
		runs = append(runs, run)
	}
	stay, gone := keep.keeps(runs)
	p := &Pruned{}
	if len(stay) == 0 && len(gone) > 0 {
		return nil, errors.New("nothing is removed: no run would stay")
	}
	for _, run := range stay {
		p.Kept = append(p.Kept, run.Name)
	}
	manifests, err := r.manifestsOf(stay, parts)
	if err != nil {
		return nil, err
	}
	for i, m := range manifests {
		if progress != nil {
			progress(Pruning{Manifests: i, Of: len(manifests)})
		}
		err := r.eachRow(m.RunAccount, func(*transfer.MailboxRow, *transfer.Row) error { return ctx.Err() })
		if err != nil {
			return nil, fmt.Errorf("nothing is removed: what this manifest of run %s names is not known: %w; remove the file of the run to do without it", m.run, err)
		}
	}
	for _, run := range gone {
		p.Removed = append(p.Removed, run.Name)
		if !dry {
			if err := r.remove(r.runPath(run.Name + runSuffix)); err != nil {
				return p, err
			}
		}
	}
	if err := r.syncNames(); err != nil { // before anything they name goes
		return p, err
	}
	return p, r.collect(ctx, manifests, p, dry, progress)
}

// manifestsOf lists the manifests that runs name, each once, also those of
// interrupted runs: the next run makes use of these.
func (r *Repository) manifestsOf(runs []*Run, parts []string) ([]placed, error) {
	for _, part := range parts {
		run, err := r.readRun(part + partSuffix)
		if err != nil {
			return nil, err
		}
		runs = append(runs, run)
	}
	var list []placed
	known := make(map[string]bool)
	for _, run := range runs {
		for _, a := range run.Accounts {
			if a.Failed != "" || known[a.ID+a.Manifest] {
				continue
			}
			known[a.ID+a.Manifest] = true
			list = append(list, placed{run.Name, a})
		}
	}
	return list, nil
}

// collect removes what none of the manifests, and no run, names.
func (r *Repository) collect(ctx context.Context, manifests []placed, p *Pruned, dry bool, progress func(Pruning)) error {
	total := int64(0)
	named := make(map[string]bool, len(manifests))
	for _, m := range manifests {
		named[r.manifestPath(m.ID, m.Manifest)] = true
		total += int64(m.Messages)
	}
	parted := max(1, int((total+bodiesAtATime-1)/bodiesAtATime))
	for part := range parted {
		from, to := 256*part/parted, 256*(part+1)/parted
		names, err := r.named(ctx, manifests, from, to)
		if err != nil {
			return fmt.Errorf("no body is removed: what this manifest names is not known: %w", err)
		}
		if err := r.collectBodies(ctx, names, from, to, p, dry, progress); err != nil {
			return err
		}
	}
	accounts, err := r.list(accountsName)
	if err != nil {
		return err
	}
	for _, account := range accounts {
		files, err := r.list(accountsName, account)
		if err != nil {
			return err
		}
		for _, file := range files {
			name := filepath.Join(r.dir, accountsName, account, file)
			if named[name] {
				continue
			}
			p.Manifests++
			if err := r.discard(name, p, dry); err != nil {
				return err
			}
		}
	}
	return r.syncNames()
}

func (r *Repository) collectBodies(ctx context.Context, names map[store.Hash]place, from, to int, p *Pruned, dry bool, progress func(Pruning)) error {
	for first := from; first < to; first++ {
		if progress != nil {
			progress(Pruning{Share: 100 * first / 256, Pruned: *p})
		}
		dir := fmt.Sprintf("%02x", first)
		files, err := r.list(bodiesName, dir)
		if err != nil {
			return err
		}
		for _, file := range files {
			h, err := hashOf(strings.TrimSuffix(file, packed))
			_, ok := names[h]
			if err == nil && ok && strings.HasSuffix(file, packed) {
				continue
			}
			if err != nil && !strings.HasSuffix(file, unfinished) {
				continue // not ours
			}
			p.Bodies++
			if err := r.discard(filepath.Join(r.dir, bodiesName, dir, file), p, dry); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// discard removes a file and counts its octets.
func (r *Repository) discard(name string, p *Pruned, dry bool) error {
	if f, err := r.read(name); err == nil {
		if n, err := f.Size(); err == nil {
			p.Octets += n
		}
		_ = f.Close() // it was only looked at
	}
	if dry {
		return nil
	}
	return r.remove(name)
}
