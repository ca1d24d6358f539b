package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/fsx"
)

// Run is one backup.
type Run struct {
	Name string
	// Begun and Finished; Finished is zero of one that was interrupted.
	Begun, Finished time.Time
	// Whole: it was asked for all accounts.
	Whole    bool
	Accounts []RunAccount
	Totals
}

// Totals are what a run has.
type Totals struct {
	Messages int64 `json:"messages"`
	Octets   int64 `json:"octets"`
	// Written is how much of it was new, as written.
	Written int64 `json:"written"`
}

// RunAccount is what a run has of an account.
type RunAccount struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	// Manifest is the SHA-256 of what was written of it.
	Manifest  string    `json:"manifest,omitempty"`
	Position  string    `json:"position,omitempty"`
	Taken     time.Time `json:"taken"`
	Mailboxes int       `json:"mailboxes,omitempty"`
	Messages  int       `json:"messages,omitempty"`
	Octets    int64     `json:"octets,omitempty"`
	// Lost are messages that could not be read.
	Lost int `json:"lost,omitempty"`
	// Failed is why there is no manifest.
	Failed string `json:"failed,omitempty"`
}

// runLine is a line of a run's file: first Run, then an Account each, at last
// End.
type runLine struct {
	Run     *runHead    `json:"run,omitempty"`
	Account *RunAccount `json:"account,omitempty"`
	End     *runEnd     `json:"end,omitempty"`
}

type runHead struct {
	Format int       `json:"format"`
	Name   string    `json:"name"`
	Begun  time.Time `json:"begun"`
	Whole  bool      `json:"whole"`
}

type runEnd struct {
	Finished time.Time `json:"finished"`
	Accounts int       `json:"accounts"`
	Totals
	// SHA256 is of all octets before this line.
	SHA256 string `json:"sha256"`
}

const (
	runSuffix  = ".jsonl"
	partSuffix = ".part"
	runLayout  = "20060102T150405Z"
)

func (r *Repository) runPath(file string) string { return filepath.Join(r.dir, runsName, file) }

// runFiles returns the names of complete runs, the oldest first, and of those
// that were interrupted.
func (r *Repository) runFiles() (complete, parts []string, err error) {
	names, err := r.list(runsName)
	for _, name := range names {
		if run, ok := strings.CutSuffix(name, runSuffix); ok {
			complete = append(complete, run)
		} else if run, ok := strings.CutSuffix(name, partSuffix); ok {
			parts = append(parts, run)
		}
	}
	slices.Sort(complete) // the suffix is not part of it
	slices.Sort(parts)
	return complete, parts, err
}

// Runs returns the names of the runs, the oldest first.
func (r *Repository) Runs() ([]string, error) {
	names, _, err := r.runFiles()
	return names, err
}

// Run reads a run. ErrDamaged, ErrNoRun.
func (r *Repository) Run(name string) (*Run, error) {
	if name != filepath.Base(name) {
		return nil, fmt.Errorf("%s: %w %q", r.dir, ErrNoRun, name)
	}
	run, err := r.readRun(name + runSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w %q", r.dir, ErrNoRun, name)
	}
	if err == nil && run.Finished.IsZero() {
		err = fmt.Errorf("%s: %w: it ends too early", r.runPath(name+runSuffix), ErrDamaged)
	}
	return run, err
}

// ErrNoRun means that there is no such run.
var ErrNoRun = errors.New("there is no run")

// readRun reads a run's file. What an interrupted one ends with is not looked
// at: Finished is zero then.
func (r *Repository) readRun(file string) (*Run, error) {
	f, err := r.read(r.runPath(file))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := f.Size()
	if err != nil {
		return nil, err
	}
	run, err := decodeRun(io.NewSectionReader(f, 0, n), strings.HasSuffix(file, partSuffix))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", r.runPath(file), ErrDamaged, err)
	}
	return run, nil
}

// decodeRun reads a run. Of one that was interrupted what can be read counts.
func decodeRun(from io.Reader, interrupted bool) (*Run, error) {
	run := new(Run)
	sum := sha256.New()
	lines := bufio.NewReader(from)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 || err != nil && interrupted {
			break
		}
		var l runLine
		if err == nil {
			if err = json.Unmarshal(line, &l); err == nil {
				err = run.take(&l, n, sum)
			}
		}
		if err != nil && interrupted {
			break
		} else if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		sum.Write(line)
	}
	if run.Name == "" && !interrupted {
		return nil, errors.New("it is empty")
	}
	return run, nil
}

func (run *Run) take(l *runLine, n int, sum hash.Hash) error {
	switch {
	case !run.Finished.IsZero():
		return errors.New("it goes on behind its end")
	case (n == 1) != (l.Run != nil):
		return errors.New("the run's own line is not the first")
	case l.Run != nil:
		if l.Run.Format != Format {
			return fmt.Errorf("it has format %d, this program knows %d", l.Run.Format, Format)
		}
		if l.Run.Name == "" {
			return errors.New("it has no name")
		}
		run.Name, run.Begun, run.Whole = l.Run.Name, l.Run.Begun, l.Run.Whole
	case l.Account != nil:
		a := l.Account
		if !isHex(a.ID, 32) || a.Failed == "" && !isHex(a.Manifest, 64) {
			return errors.New("malformed account")
		}
		run.Accounts = append(run.Accounts, *a)
	case l.End != nil:
		if l.End.SHA256 != hex.EncodeToString(sum.Sum(nil)) {
			return errors.New("its checksum is another")
		}
		if l.End.Accounts != len(run.Accounts) || l.End.Finished.IsZero() {
			return errors.New("it does not have as many accounts as it says")
		}
		run.Finished, run.Totals = l.End.Finished, l.End.Totals
	default:
		return errors.New("a line of no kind that is known")
	}
	return nil
}

// Account finds an account in a run by its name.
func (run *Run) Account(name string) (RunAccount, bool) {
	for _, a := range run.Accounts {
		if a.Name == name {
			return a, true
		}
	}
	return RunAccount{}, false
}

// At finds the latest run that was finished at or before a time and has the
// account, or with "" is whole. The zero time sets no bound.
func (r *Repository) At(at time.Time, account string) (*Run, error) {
	names, err := r.Runs()
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Backward(names) {
		run, err := r.Run(name)
		if err != nil {
			return nil, fmt.Errorf("%w; name another run by --at, postern backup list tells which there are", err)
		}
		if !at.IsZero() && run.Finished.After(at) {
			continue
		}
		if a, ok := run.Account(account); account == "" && run.Whole || ok && a.Failed == "" {
			return run, nil
		}
	}
	if account == "" {
		return nil, fmt.Errorf("%s: %w of all accounts that is old enough", r.dir, ErrNoRun)
	}
	return nil, fmt.Errorf("%s: %w that is old enough and has account %q", r.dir, ErrNoRun, account)
}

// runWriter writes a run's file.
type runWriter struct {
	repository *Repository
	file       fsx.File
	name       string
	at         int64
	sum        hash.Hash
	accounts   int
	totals     Totals
	// waiting are lines whose accounts may not be durable yet.
	waiting bytes.Buffer
}

// beginRun makes a run of its own name.
func (r *Repository) beginRun(now time.Time, whole bool) (*runWriter, error) {
	taken, err := r.list(runsName)
	if err != nil {
		return nil, err
	}
	name := now.UTC().Format(runLayout)
	for n := 2; slices.ContainsFunc(taken, func(have string) bool { return strings.HasPrefix(have, name+".") }); n++ {
		name = fmt.Sprintf("%s-%02d", now.UTC().Format(runLayout), n)
	}
	f, err := r.create(r.runPath(name + partSuffix))
	if err != nil {
		return nil, err
	}
	r.soil(filepath.Join(r.dir, runsName))
	w := &runWriter{repository: r, file: f, name: name, sum: sha256.New()}
	return w, w.line(&runLine{Run: &runHead{Format, name, now.UTC(), whole}})
}

func (w *runWriter) line(l *runLine) error {
	raw, err := json.Marshal(l)
	if err != nil {
		return err
	}
	raw = append(raw, '\n')
	w.sum.Write(raw)
	w.waiting.Write(raw)
	return nil
}

func (w *runWriter) account(a RunAccount) error {
	w.accounts++
	w.totals.Messages += int64(a.Messages)
	w.totals.Octets += a.Octets
	return w.line(&runLine{Account: &a})
}

// checkpoint makes what was written so far durable.
func (w *runWriter) checkpoint() error {
	if err := w.repository.syncNames(); err != nil {
		return err
	}
	if w.waiting.Len() == 0 {
		return nil
	}
	n, err := w.file.WriteAt(w.waiting.Bytes(), w.at)
	w.at += int64(n)
	if err != nil {
		return err
	}
	w.waiting.Reset()
	return w.file.Sync()
}

// finish gives the run its name: then it is complete.
func (w *runWriter) finish(now time.Time) error {
	if err := w.checkpoint(); err != nil { // all it names is there before its end is
		return err
	}
	if err := w.line(&runLine{End: &runEnd{now.UTC(), w.accounts, w.totals, hex.EncodeToString(w.sum.Sum(nil))}}); err != nil {
		return err
	}
	if err := w.checkpoint(); err != nil {
		return err
	}
	r := w.repository
	if err := r.fsys.Rename(r.runPath(w.name+partSuffix), r.runPath(w.name+runSuffix)); err != nil {
		return err
	}
	return r.fsys.SyncDir(filepath.Join(r.dir, runsName))
}

func (w *runWriter) close() { _ = w.file.Close() } // what had to be durable was synced
