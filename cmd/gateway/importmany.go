package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/transfer"
)

// manyPlaces is help that imports from files have in common.
const manyPlaces = "With --users many people are brought in, --parallel of them at a time: a file of lines user,path. Where the path is\n" +
	"missing it is the argument, with the user for %u, what stands before the @ for %n, and the domain for %d. What fails\n" +
	"for one does not keep the others."

// maxParallel is how many people are brought at a time at most.
const maxParallel = 64

// opening makes the source of one import, and what closes it. warn takes what
// there is to tell on the way.
type opening func(ctx context.Context, o transfer.Options, warn func(string)) (transfer.Source, func(), error)

// arrival is one person who is brought in.
type arrival struct {
	user string
	open opening
}

// importPlaces brings one person, or those of a file, from files.
func importPlaces(c *cobra.Command, kind, place string, open func(path string, o transfer.Options) (transfer.Source, error)) error {
	people, err := peopleOfPlaces(c, place)
	if err != nil {
		return err
	}
	all := make([]arrival, len(people))
	for i, p := range people {
		all[i] = arrival{p.user, func(_ context.Context, o transfer.Options, _ func(string)) (transfer.Source, func(), error) {
			s, err := open(p.login, o)
			return s, func() {}, err
		}}
	}
	return importAll(c, "import "+kind+" "+place, all)
}

// peopleOfPlaces reads whose mail is where; that stands in the place of a login.
func peopleOfPlaces(c *cobra.Command, place string) ([]remotePerson, error) {
	user, _ := c.Flags().GetString("user")
	path, _ := c.Flags().GetString("users")
	switch {
	case (user == "") == (path == ""):
		return nil, errors.New("whose mailboxes is missing: --user LOGIN for one, --users FILE for many")
	case path == "":
		return []remotePerson{{user: user, login: place}}, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	people, err := readPeople(file, path)
	if err != nil {
		return nil, err
	}
	places := make(map[string]string)
	for i := range people {
		p := &people[i]
		if p.password != "" {
			return nil, fmt.Errorf("%s: %s: lines are user,path", path, p.user)
		}
		if p.login == p.user {
			local, domain, _ := strings.Cut(p.user, "@")
			p.login = strings.NewReplacer("%u", p.user, "%n", local, "%d", domain, "%%", "%").Replace(place)
		}
		if before, taken := places[p.login]; taken {
			return nil, fmt.Errorf("%s: %s and %s would both get %s; write the place with %%u, %%n or %%d, or in the second column", path, before, p.user, p.login)
		}
		places[p.login] = p.user
	}
	return people, nil
}

// importAll brings people in, some at a time. What fails for one does not keep
// the others.
func importAll(c *cobra.Command, doing string, people []arrival) error {
	parallel, _ := c.Flags().GetInt("parallel")
	if parallel < 1 || parallel > maxParallel {
		return fmt.Errorf("--parallel is 1 to %d", maxParallel)
	}
	mail, err := openMail(c, doing)
	if err != nil {
		return err
	}
	board := newImportBoard(c, len(people))
	work, ctx := errgroup.WithContext(c.Context())
	work.SetLimit(parallel)
	for _, p := range people {
		if ctx.Err() != nil {
			break
		}
		work.Go(func() error {
			sum, err := importFor(ctx, c, mail, p, board)
			board.ended(p.user, sum, err)
			if c.Context().Err() != nil || len(people) == 1 {
				return err
			}
			return nil
		})
	}
	err = errors.Join(work.Wait(), mail.Close())
	board.line.end()
	switch {
	case err != nil:
		return err
	case c.Context().Err() != nil:
		return context.Cause(c.Context())
	case len(board.failed) > 0:
		slices.Sort(board.failed)
		return fmt.Errorf("%d of %d people failed: %s; the same command goes on with them", len(board.failed), len(people), strings.Join(board.failed, ", "))
	}
	return skippedStatus(board.past.Skipped)
}

func skippedStatus(skipped int64) error {
	if skipped > 0 {
		return &exitStatus{status: notWhole, err: fmt.Errorf("%d message(s) or mailbox(es) were skipped", skipped)}
	}
	return nil
}

// importFor brings one source into one account, and tells what came of it.
func importFor(ctx context.Context, c *cobra.Command, mail *mailAccess, p arrival, board *importBoard) (*transfer.Summary, error) {
	o := importOptions(c)
	if again, _ := c.Flags().GetBool("again"); again {
		o.Nonce = strconv.FormatInt(time.Now().UnixNano(), 36)
	}
	sum := &transfer.Summary{}
	source, closeSource, err := p.open(ctx, o, func(text string) { board.warn(p.user + ": " + text) })
	if err != nil {
		return sum, err
	}
	defer closeSource()
	client, end, err := mail.account(ctx, p.user)
	if err != nil {
		return sum, err
	}
	state := transfer.NewState(stateDir(c, mail.file), p.user, source.Name())
	if o.Nonce != "" && !o.DryRun {
		err = state.Forget()
	}
	if err == nil {
		sum, err = transfer.Import(ctx, client, source, state, o, func(s *transfer.Summary) { board.tell(p.user, s) })
	}
	err = errors.Join(err, end())
	var text bytes.Buffer
	err = errors.Join(err, tellImport(c, &text, p.user, sum, o.DryRun, err))
	return sum, errors.Join(err, board.print(text.Bytes()))
}

// importBoard tells how imports come on, in one line, and what came of them. It
// is safe for concurrent use.
type importBoard struct {
	line     *progressLine
	out, err io.Writer
	people   int
	began    time.Time

	mu     sync.Mutex
	past   transfer.Summary // of those that have ended
	done   int              // how many
	now    map[string]transfer.Summary
	failed []string
}

func newImportBoard(c *cobra.Command, people int) *importBoard {
	line := newProgressLine(c.ErrOrStderr())
	return &importBoard{line: line, out: line.over(c.OutOrStdout()), err: line.over(c.ErrOrStderr()), people: people, began: time.Now(), now: make(map[string]transfer.Summary)}
}

func (b *importBoard) print(text []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err := b.out.Write(text)
	return err
}

func (b *importBoard) warn(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fmt.Fprintln(b.err, line)
}

// tell takes in how far somebody's import is.
func (b *importBoard) tell(user string, s *transfer.Summary) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now[user] = counts(s)
	if b.line.due() {
		b.line.show(b.textLocked(user))
	}
}

// counts are the numbers of a Summary.
func counts(s *transfer.Summary) transfer.Summary {
	return transfer.Summary{Seen: s.Seen, Copied: s.Copied, Octets: s.Octets, Skipped: s.Skipped, Expected: s.Expected}
}

func add(to *transfer.Summary, s transfer.Summary) {
	to.Seen += s.Seen
	to.Copied += s.Copied
	to.Octets += s.Octets
	to.Skipped += s.Skipped
	to.Expected += s.Expected
}

// ended takes in what came of somebody's import.
func (b *importBoard) ended(user string, s *transfer.Summary, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.now, user)
	b.done++
	add(&b.past, counts(s))
	if err != nil && b.people > 1 {
		b.failed = append(b.failed, user)
		fmt.Fprintf(b.err, "%s: failed: %v\n", user, err)
	}
}

// textLocked says it all in a line.
func (b *importBoard) textLocked(user string) string {
	all, share := b.past, float64(b.done)
	for _, s := range b.now {
		add(&all, s)
		if s.Expected > 0 {
			share += min(1, float64(s.Seen)/float64(s.Expected))
		}
	}
	took := time.Since(b.began).Seconds()
	who := user + ": "
	if b.people > 1 {
		who = fmt.Sprintf("%d of %d people done, %d under way: ", b.done, b.people, len(b.now))
	}
	text := fmt.Sprintf("%s%d of %d messages looked at, %d copied, %s (%.0f messages/s, %s/s)", who, all.Seen, max(all.Expected, all.Seen),
		all.Copied, octets(uint64(all.Octets)), float64(all.Copied)/took, octets(uint64(float64(all.Octets)/took)))
	if share > 0 && share < float64(b.people) {
		text += ", " + roughly(time.Duration(took/share*(float64(b.people)-share)*float64(time.Second))) + " left"
	}
	return text
}
