package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/queue"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pack"
	"github.com/postern-mail/postern/store/pebble"
)

// notChecked is the exit status of fsck that could not look.
const notChecked = 2

func fsckCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "fsck", Short: "Verify the data of a stopped server", Args: cobra.NoArgs,
		Long: "Reads everything in the queue and the mailboxes of data_dir and tells what is wrong, one finding a\n" +
			"line: records, bodies with their checksums, references. The server must not run; what a crash left is\n" +
			"recovered first, as a start does it. Exits with 0 when all is well, 1 with findings, 2 when it could\n" +
			"not check.\n\n" +
			"With --repair it then rights counts of references, writes missing due entries, removes records that\n" +
			"belong to no message, and moves what is left of damaged queued messages, and bodies that nobody refers\n" +
			"to, into data_dir/salvage. Lost bodies are looked for in all packs; mailboxes are counted anew, and their\n" +
			"damaged records made again from the journal. Each repair is told. Then it checks again, and that is what\n" +
			"counts.\n\n" +
			"Messages in mailboxes whose content is lost stay, for a backup may have it. With --remove-lost as well they\n" +
			"are expunged; each is recorded in the audit, and what is left of it goes into data_dir/salvage.",
		Example: "  systemctl stop postern\n  runuser -u postern -- postern fsck",
		RunE: func(c *cobra.Command, _ []string) error {
			err := runFsck(c)
			var found *exitStatus
			var mistakes *config.Mistakes
			switch {
			case err == nil || errors.As(err, &found):
				return err
			case errors.As(err, &mistakes):
				return &exitStatus{status: notChecked, err: err}
			default:
				return &exitStatus{status: notChecked, err: fmt.Errorf("not checked: %w", err)}
			}
		},
	}
	c.Flags().Bool("json", false, "one JSON object a line")
	c.Flags().Bool("repair", false, "mend what is safe to mend, tell how, and check again")
	c.Flags().Bool("remove-lost", false, "with --repair: expunge messages whose content is lost, when no backup has it")
	c.Flags().BoolP("quiet", "q", false, "findings only, no progress and no summary")
	return c
}

func runFsck(c *cobra.Command) error {
	f, err := config.Load(configPath(c))
	if err != nil {
		return err
	}
	quiet, err := c.Flags().GetBool("quiet")
	if err != nil {
		return err
	}
	asJSON, err := c.Flags().GetBool("json")
	if err != nil {
		return err
	}
	repair, err := c.Flags().GetBool("repair")
	if err != nil {
		return err
	}
	removeLost, err := c.Flags().GetBool("remove-lost")
	if err != nil {
		return err
	}
	if removeLost && !repair {
		return errors.New("--remove-lost goes with --repair: what can be found again must not be removed")
	}
	run := &fsck{
		file: f, out: c.OutOrStdout(), json: asJSON, quiet: quiet, repair: repair, removeLost: removeLost,
		log: stderrLog("error").Named("fsck"),
	}
	if !quiet {
		defer run.showProgress(c.ErrOrStderr())()
	}
	return run.run(c.Context())
}

// fsck is one check of a data_dir.
type fsck struct {
	file   *config.File
	out    io.Writer
	json   bool
	quiet  bool
	repair bool
	// removeLost has mailbox messages expunged whose content is lost.
	removeLost bool
	log        hclog.Logger

	line     *progressLine // nil for nowhere
	written  error         // the first that out gave
	findings int64         // in all stores
	progress atomic.Pointer[fsckProgress]
}

// run opens every store before it looks at one, so that no server starts
// meanwhile.
func (k *fsck) run(ctx context.Context) (err error) {
	if conn, err := net.Dial("unix", k.file.Control.Socket); err == nil {
		_ = conn.Close()
		return fmt.Errorf("the server is running: it answers at %s; stop it first", k.file.Control.Socket)
	}
	var stores []*engine
	defer func() {
		for _, e := range stores {
			err = errors.Join(err, e.pack.Close(), e.kv.Close())
		}
	}()
	for _, name := range []string{"queue", "mail"} {
		e, err := k.open(ctx, name)
		if err != nil {
			return err
		}
		if e != nil {
			stores = append(stores, e)
		}
	}
	if len(stores) == 0 {
		return fmt.Errorf("there is neither a queue nor a mail store in %s", k.file.DataDir)
	}
	for _, e := range stores {
		if err := k.checkAndRepair(ctx, e); err != nil {
			return err
		}
	}
	if k.written != nil {
		return k.written
	}
	if k.findings > 0 {
		return &exitStatus{status: 1, err: fmt.Errorf("%d finding(s) in %s", k.findings, k.file.DataDir)}
	}
	return nil
}

// ownedBy refuses a folder of the server's that belongs to another user: files
// that this one makes in it are none that the server can open.
func ownedBy(user int, dir string, info fs.FileInfo) error {
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != user {
		return fmt.Errorf("%s belongs to user %d: run this as that user, or the server cannot open it any more", dir, owner.Uid)
	}
	return nil
}

// open opens one store; nil when the role never ran here. Opening writes files,
// so it must be done as the user whose the store is.
func (k *fsck) open(ctx context.Context, name string) (*engine, error) {
	dir := filepath.Join(k.file.DataDir, name)
	index := filepath.Join(dir, "index")
	info, err := os.Stat(filepath.Join(index, "db"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := ownedBy(os.Geteuid(), index, info); err != nil {
		return nil, err
	}
	kv, err := pebble.Open(ctx, pebble.Config{Dir: index, ReserveOctets: -1}, k.log)
	if err != nil {
		return nil, fmt.Errorf("open the %s store: %w", name, err)
	}
	bodies, err := pack.Open(ctx, pack.Config{Dir: filepath.Join(dir, "bodies"), ReserveOctets: -1}, kv, k.log)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the %s bodies: %w", name, err), kv.Close())
	}
	return &engine{name: name, kv: kv, pack: bodies}, nil
}

// fsckFinding is one thing that is wrong. What does not apply is empty.
type fsckFinding struct {
	Store   string `json:"store"`
	Finding string `json:"finding"`
	Queue   string `json:"queue_id,omitempty"`
	Account string `json:"account,omitempty"`
	Mailbox string `json:"mailbox,omitempty"`
	UID     uint32 `json:"uid,omitempty"`
	Body    string `json:"body,omitempty"` // SHA-256
	Pack    string `json:"pack,omitempty"` // its number in hexadecimal digits, as in its file's name
	Detail  string `json:"detail,omitempty"`

	text string
}

// fsckSummary is what was looked at in one store.
type fsckSummary struct {
	Store    string `json:"store"`
	Records  int64  `json:"records"`
	Messages int64  `json:"messages"`
	Bodies   int64  `json:"bodies"`
	Octets   int64  `json:"octets"`
	Findings int64  `json:"findings"`
}

// tell prints one finding or summary.
func (k *fsck) tell(value any, text string) {
	line := []byte(oneLine(text))
	if k.json {
		var err error
		if line, err = json.Marshal(value); err != nil {
			k.written = errors.Join(k.written, err)
			return
		}
	}
	if k.line != nil {
		k.line.end()
	}
	if _, err := k.out.Write(append(line, '\n')); err != nil && k.written == nil {
		k.written = err
	}
}

// oneLine keeps what damaged records hold from forging lines or moving the
// cursor.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

// storeCheck checks one store.
type storeCheck struct {
	*fsck
	*engine
	summary    fsckSummary
	progress   *fsckProgress
	mailstore  *mailstore.Store // nil for the queue
	unreadable int64            // messages whose references are not known
	inPacks    []pack.Finding   // for the repair
}

// keepFindings bounds what is kept for the repair. What is beyond is found by
// the next.
const keepFindings = 1 << 16

// checkAndRepair checks one store. Where there is something to repair and it is
// wanted, the findings that count are those of a second check after it.
func (k *fsck) checkAndRepair(ctx context.Context, e *engine) error {
	c, err := k.check(ctx, e)
	if err != nil {
		return err
	}
	if !k.repair || c.summary.Findings == 0 {
		k.findings += c.summary.Findings
		return nil
	}
	if err := c.mend(ctx); err != nil {
		return err
	}
	if c, err = k.check(ctx, e); err != nil {
		return err
	}
	if k.removeLost && c.mailstore != nil && c.summary.Findings > 0 {
		if err := c.removeLostMessages(ctx); err != nil {
			return err
		}
		if c, err = k.check(ctx, e); err != nil {
			return err
		}
	}
	k.findings += c.summary.Findings
	return nil
}

// check looks at one store, from the ground up: what is found below may
// explain what is found above. An error is one that is about no store.
func (k *fsck) check(ctx context.Context, e *engine) (*storeCheck, error) {
	c := &storeCheck{fsck: k, engine: e, summary: fsckSummary{Store: e.name}, progress: &fsckProgress{store: e.name}}
	k.progress.Store(c.progress)
	defer k.progress.Store(nil)
	if e.name == "mail" {
		cfg := mailstore.Config{}
		if k.file.Backend != nil {
			cfg = k.file.Backend.Room()
		}
		var err error
		if c.mailstore, err = mailstore.Open(ctx, cfg, e.kv, e.pack, k.log); err != nil {
			return nil, err
		}
	}
	for _, step := range []struct {
		name string
		look func(context.Context) error
	}{
		{"records", c.records},
		{"bodies", c.bodies},
		{"messages", c.messages},
		{"references", c.references},
	} {
		c.progress.step.Store(&step.name)
		err := step.look(ctx)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: interrupted while checking %s", e.name, step.name)
		}
		if err != nil {
			c.found(fsckFinding{Finding: step.name + " cannot be read", Detail: err.Error(), text: fmt.Sprintf("%s cannot be read: %v", step.name, err)})
		}
	}
	s := &c.summary
	s.Records, s.Messages = c.progress.records.Load(), c.progress.messages.Load()
	s.Bodies, s.Octets = c.progress.bodies.Bodies.Load(), c.progress.bodies.Octets.Load()
	if !k.quiet {
		k.tell(s, fmt.Sprintf("%s: %d record(s), %d message(s), %d bodies of %d octets checked: %d finding(s)",
			s.Store, s.Records, s.Messages, s.Bodies, s.Octets, s.Findings))
	}
	return c, nil
}

// found reports one finding.
func (c *storeCheck) found(f fsckFinding) {
	f.Store = c.name
	c.summary.Findings++
	c.tell(f, c.name+": "+f.text)
}

// recordsAtOnce is how many records are read in one view.
const recordsAtOnce = 10_000

// records reads every key and value, which verifies the checksums of the index,
// and looks for keys that are nobody's.
func (c *storeCheck) records(ctx context.Context) error {
	owners := "bq"
	if c.mailstore != nil {
		owners = "bmr" // r: what a node of a pair remembers
	}
	for from := []byte{1}; from != nil; {
		n := 0
		var next []byte
		err := c.kv.View(ctx, func(s store.Snapshot) error {
			for pair, err := range s.Range(from, nil, recordsAtOnce, false) {
				if err != nil {
					return err
				}
				c.progress.records.Add(1)
				if strings.IndexByte(owners, pair.Key[0]) < 0 {
					text := fmt.Sprintf("key of no owner: %x", pair.Key)
					c.found(fsckFinding{Finding: "key of no owner", Detail: fmt.Sprintf("%x", pair.Key), text: text})
				}
				if n++; n == recordsAtOnce {
					next = append(append([]byte{}, pair.Key...), 0)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// bodies reads every body and compares it with its hash.
func (c *storeCheck) bodies(ctx context.Context) error {
	return c.pack.VerifyWith(ctx, c.foundInPacks, &c.progress.bodies)
}

func (c *storeCheck) foundInPacks(f pack.Finding) {
	if len(c.inPacks) < keepFindings {
		c.inPacks = append(c.inPacks, f)
	}
	found := fsckFinding{Finding: string(f.Kind), text: f.String()}
	if f.Body != (store.Hash{}) {
		found.Body = fmt.Sprintf("%x", f.Body)
	}
	if f.Pack != 0 {
		found.Pack = fmt.Sprintf("%016x", f.Pack)
	}
	if f.Err != nil {
		found.Detail = f.Err.Error()
	}
	if f.Kind == pack.FoundReferences && c.unreadable > 0 {
		found.Detail += fmt.Sprintf("; references of %d damaged message(s) are not known", c.unreadable)
		found.text += fmt.Sprintf("; references of %d damaged message(s) are not known", c.unreadable)
	}
	c.found(found)
}

// messages has the room that the store is for look at its own records.
func (c *storeCheck) messages(ctx context.Context) error {
	if c.mailstore == nil {
		return queue.Check(ctx, c.kv, c.pack, func(f queue.Finding) {
			found := fsckFinding{Finding: string(f.Kind), Queue: string(f.Queue), text: f.String()}
			if f.Err != nil {
				found.Detail = f.Err.Error()
			}
			c.found(found)
		}, &c.progress.messages)
	}
	return c.mailstore.Verify(ctx, func(f mailstore.Finding) {
		c.found(fsckFinding{
			Finding: "mailbox is damaged", Account: f.Account, Mailbox: f.Mailbox, UID: uint32(f.UID),
			Detail: f.Err.Error(), text: f.Error(),
		})
	}, &c.progress.messages)
}

// references compares the counts of references with those of all messages.
func (c *storeCheck) references(ctx context.Context) error {
	return c.pack.VerifyReferences(ctx, c.owners, c.foundInPacks)
}

// owners tells every reference that a message of the store holds.
func (c *storeCheck) owners(ctx context.Context, each func(store.Ref)) (err error) {
	if c.mailstore == nil {
		c.unreadable, err = queue.References(ctx, c.kv, each)
	} else {
		c.unreadable, err = c.mailstore.References(ctx, each)
	}
	return err
}
