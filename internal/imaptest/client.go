package imaptest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config is what a Client is told.
type Config struct {
	// Name tells the client from others in the history.
	Name string
	// Login is the account, too.
	Login, Password string
	// Nodes are addresses, host and port, in the clear.
	Nodes []string
	// History gathers what the client notes.
	History *History
	// Dial makes connections; nil is a net.Dialer's. A test may cut them here.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Known writes what stands in SELECT behind QRESYNC's mod-sequence, beginning
	// with a space. Nil: the UIDs that the client knows.
	Known func(*Cache) string
	// Timeout bounds each wait for the server. Zero: two minutes.
	Timeout time.Duration
}

// Client is one mail program with a cache. It belongs to one goroutine.
type Client struct {
	cfg    Config
	node   string
	wire   *wire // nil while not connected
	caches map[string]*Cache
	box    *Cache // selected
	polled map[string]*poll
}

// poll is what a client that only looks for new mail remembers of a mailbox.
type poll struct{ uidValidity, next uint32 }

var errNotConnected = errors.New("not connected")

// NewClient returns a client that is not connected.
func NewClient(cfg Config) *Client {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Minute
	}
	if cfg.Known == nil {
		cfg.Known = knownUIDs
	}
	if cfg.Dial == nil {
		d := net.Dialer{Timeout: cfg.Timeout}
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	return &Client{cfg: cfg, caches: map[string]*Cache{}, polled: map[string]*poll{}}
}

func knownUIDs(c *Cache) string {
	if len(c.Messages) == 0 {
		return ""
	}
	return " " + formatSet(c.UIDs())
}

// Connect logs in at a node, by its index in Config.Nodes, and enables QRESYNC.
func (c *Client) Connect(ctx context.Context, node int) error {
	c.Drop()
	conn, err := c.cfg.Dial(ctx, c.cfg.Nodes[node])
	if err != nil {
		return err
	}
	w, err := greet(conn, c.cfg.Timeout)
	if err != nil {
		return err
	}
	c.wire, c.node = w, c.cfg.Nodes[node]
	if _, err := c.run(fmt.Sprintf("LOGIN %s %s", c.cfg.Login, c.cfg.Password)); err != nil {
		c.Drop()
		return err
	}
	_, err = c.run("ENABLE QRESYNC")
	return err
}

// Drop ends the connection without a word.
func (c *Client) Drop() {
	if c.wire != nil {
		_ = c.wire.conn.Close()
	}
	c.wire, c.box = nil, nil
}

// Connected reports whether there is a connection, as far as the client knows.
func (c *Client) Connected() bool { return c.wire != nil }

// Cache is what the client keeps of a mailbox, nil before the first Select.
func (c *Client) Cache(mailbox string) *Cache { return c.caches[mailbox] }

// run runs a command, and applies what comes to the selected mailbox.
func (c *Client) run(command string) (string, error) { return c.runWith(command, c.apply) }

func (c *Client) apply(r response) error {
	if c.box == nil {
		return nil
	}
	return c.box.apply(r)
}

func (c *Client) runWith(command string, untagged func(response) error) (string, error) {
	if c.wire == nil {
		return "", errNotConnected
	}
	answer, err := c.wire.command(command, untagged)
	var no *No
	if err != nil && !errors.As(err, &no) {
		c.Drop()
		return "", fmt.Errorf("%.60q: %w", command, err)
	}
	if c.box != nil {
		if code := codeOf(strings.TrimPrefix(answer, "OK ")); code != "" {
			if err := c.box.applyCode(code); err != nil {
				return "", err
			}
		}
		c.box.checkpoint()
	}
	return answer, err
}

// note begins an event of this client.
func (c *Client) note(kind Kind, mailbox string) Event {
	e := Event{Kind: kind, Client: c.cfg.Name, Node: c.node, Account: c.cfg.Login, Mailbox: mailbox, Begin: c.cfg.History.Now()}
	if cache := c.caches[mailbox]; cache != nil {
		e.UIDValidity = cache.UIDValidity
	}
	return e
}

// items are what a client wants to know of a message it sees first.
const items = "(UID FLAGS MODSEQ EMAILID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])"

// Select opens a mailbox with what is known of it, brings the cache up to date
// and notes the mailbox as the client then knows it.
func (c *Client) Select(_ context.Context, mailbox string) error {
	cache := c.caches[mailbox]
	if cache == nil {
		cache = newCache(mailbox)
		c.caches[mailbox] = cache
	}
	command := "SELECT " + mailbox
	if cache.UIDValidity != 0 && cache.ModSeq != 0 {
		command += fmt.Sprintf(" (QRESYNC (%d %d%s))", cache.UIDValidity, cache.ModSeq, c.cfg.Known(cache))
	}
	e := c.note(View, mailbox)
	// What one node told in part is no state that another can go on from: the
	// answer counts as a whole or not at all.
	cache = cache.clone()
	cache.begin()
	c.box = nil
	open := func(r response) error {
		if r.code == "CLOSED" {
			return nil
		}
		return cache.apply(r)
	}
	if _, err := c.runWith(command, open); err != nil {
		return err
	}
	c.caches[mailbox], c.box = cache, cache
	cache.checkpoint()
	cache.Next = min(cache.Next, cache.uidNext) // another node may have been further
	e.UIDValidity, e.UIDNext = cache.UIDValidity, cache.uidNext
	return c.update(e)
}

// Refresh asks what is new in the selected mailbox and notes it.
func (c *Client) Refresh(context.Context) error {
	if c.box == nil {
		return errNotConnected
	}
	e := c.note(Saw, c.box.Mailbox)
	if _, err := c.run("NOOP"); err != nil {
		return err
	}
	return c.update(e)
}

// Numbers asks for the flags of all messages by their numbers, during which the
// server may not tell of expunges.
func (c *Client) Numbers(context.Context) error {
	if c.box == nil {
		return errNotConnected
	}
	if c.box.exists == 0 {
		return nil
	}
	_, err := c.run("FETCH 1:* (UID FLAGS)")
	return err
}

// maxRounds is how often a client asks again because more came meanwhile.
const maxRounds = 20

// update asks for what the client has not seen of the selected mailbox, and
// notes e with all that it knows then.
func (c *Client) update(e Event) error {
	box := c.box
	for round := 0; ; round++ {
		if err := c.ask(); err != nil {
			return err
		}
		settled := len(box.unknown()) == 0 && len(box.Messages) == box.exists
		if settled || round == maxRounds {
			break
		}
	}
	e.Messages, e.Exists = box.List(), box.exists
	c.cfg.History.Note(e)
	return nil
}

// ask fetches what was never asked for, and what was only heard of.
func (c *Client) ask() error {
	box := c.box
	from := box.Next
	if _, err := c.run(fmt.Sprintf("UID FETCH %d:* %s", from, items)); err != nil {
		return err
	}
	for uid, m := range box.Messages {
		if m.Content != "" {
			box.Next = max(box.Next, uid+1)
		}
	}
	if uids := box.unknown(); len(uids) > 0 {
		_, err := c.run("UID FETCH " + formatSet(uids) + " " + items)
		return err
	}
	return nil
}

// ErrUnknown is a message that the client has not asked about yet, or that is
// gone.
var ErrUnknown = errors.New("message is not known")

// known returns what is known of a message in the selected mailbox.
func (c *Client) known(uid uint32) (Message, error) {
	if c.box == nil {
		return Message{}, errNotConnected
	}
	m := c.box.Messages[uid]
	if m.Content == "" { // nothing could be noted of it
		return m, fmt.Errorf("UID %d: %w", uid, ErrUnknown)
	}
	return m, nil
}

// settle notes e, acknowledged unless err tells otherwise.
func (c *Client) settle(e Event, err error) error {
	e.Acked = err == nil
	c.cfg.History.Note(e)
	return err
}

var (
	appendUID = regexp.MustCompile(`\[APPENDUID (\d+) (\d+)\]`)
	copyUID   = regexp.MustCompile(`COPYUID (\d+) ([\d,:]+) ([\d,:]+)`)
)

// Append adds a message that Content makes of the name content, which must be
// used once.
func (c *Client) Append(_ context.Context, mailbox, content string) error {
	text := Content(content, 300)
	e := c.note(Add, mailbox)
	e.Content, e.UIDValidity = content, 0
	answer, err := c.run(fmt.Sprintf("APPEND %s {%d+}\r\n%s", mailbox, len(text), text))
	if m := appendUID.FindStringSubmatch(answer); m != nil {
		e.UIDValidity, e.UID = number(m[1]), number(m[2])
	}
	return c.settle(e, err)
}

func number(s string) uint32 {
	n, _ := strconv.ParseUint(s, 10, 32)
	return uint32(n)
}

// Store changes a flag of a message: op is "+FLAGS" or "-FLAGS", with ".SILENT"
// or without.
func (c *Client) Store(_ context.Context, uid uint32, op, flag string) error {
	silent := false
	_, err := c.runWith(fmt.Sprintf("UID STORE %d %s (%s)", uid, op, flag), func(r response) error {
		if r.kind == "FETCH" && r.message.UID == uid {
			silent = !r.showsFlags
		}
		return c.apply(r)
	})
	if err == nil && silent {
		c.box.assume(uid, strings.HasPrefix(op, "+"), flag)
	}
	return err
}

// Expunge marks one message and expunges it.
func (c *Client) Expunge(_ context.Context, uid uint32) error {
	m, err := c.known(uid)
	if err != nil {
		return err
	}
	e := c.note(Expunge, c.box.Mailbox)
	e.UID, e.Content = uid, m.Content
	if _, err := c.run(fmt.Sprintf(`UID STORE %d +FLAGS (\Deleted)`, uid)); err != nil {
		return c.settle(e, err)
	}
	answer, err := c.run(fmt.Sprintf("UID EXPUNGE %d", uid))
	// RFC 7162 section 3.2.9: only when something was expunged.
	_, told := codeNumber(codeOf(strings.TrimPrefix(answer, "OK ")), "HIGHESTMODSEQ")
	if err != nil || !told {
		return c.settle(e, err)
	}
	moved, err := c.renumbered(m.Content)
	e.Certain = err == nil && !moved
	_ = c.settle(e, nil) // it was answered
	return err
}

// renumbered reports whether a message shows up, in the selected mailbox, under
// a UID that the client has not seen. One whose UID ceased to be just before it
// was to be expunged is there still, and VANISHED tells the same of both.
func (c *Client) renumbered(content string) (bool, error) {
	known := map[uint32]bool{}
	for _, uid := range c.box.UIDs() {
		known[uid] = c.box.Messages[uid].Content != ""
	}
	if err := c.ask(); err != nil {
		return false, err
	}
	for uid, m := range c.box.Messages {
		if m.Content == content && !known[uid] {
			return true, nil
		}
	}
	return false, nil
}

// Copy and Move take one message of the selected mailbox to another.
func (c *Client) Copy(_ context.Context, uid uint32, dest string) error {
	return c.transfer(Copy, "UID COPY", uid, dest)
}

// Move is like Copy.
func (c *Client) Move(_ context.Context, uid uint32, dest string) error {
	return c.transfer(Move, "UID MOVE", uid, dest)
}

func (c *Client) transfer(kind Kind, verb string, uid uint32, dest string) error {
	m, err := c.known(uid)
	if err != nil {
		return err
	}
	e := c.note(kind, c.box.Mailbox)
	pair := Pair{Source: uid, Content: m.Content}
	e.Dest = dest
	var code []string
	answer, err := c.runWith(fmt.Sprintf("%s %d %s", verb, uid, dest), func(r response) error {
		if found := copyUID.FindStringSubmatch(r.code); found != nil {
			code = found
		}
		return c.apply(r)
	})
	if found := copyUID.FindStringSubmatch(answer); found != nil {
		code = found
	}
	if code != nil {
		pair.Dest = number(code[3])
		e.UIDNext = number(code[1]) // UIDVALIDITY of the destination
	}
	e.Pairs = []Pair{pair}
	if err = c.settle(e, err); err == nil && code == nil {
		return nil // it was gone already
	}
	return err
}

// Idle waits in IDLE until until says enough, which is asked after each
// response, or for at most wait, and notes what it then knows.
func (c *Client) Idle(_ context.Context, wait time.Duration, until func(*Cache) bool) error {
	if c.box == nil || c.wire == nil {
		return errNotConnected
	}
	e := c.note(Saw, c.box.Mailbox)
	err := c.idle(wait, until)
	if err != nil {
		c.Drop()
		return fmt.Errorf("IDLE: %w", err)
	}
	return c.update(e)
}

func (c *Client) idle(wait time.Duration, until func(*Cache) bool) error {
	w := c.wire
	w.tag++
	tag := fmt.Sprintf("i%d", w.tag)
	if err := w.send(tag + " IDLE\r\n"); err != nil {
		return err
	}
	// The end of waiting is said by a second goroutine: a deadline could cut a
	// response in two.
	done := time.AfterFunc(wait, func() { _ = w.send("DONE\r\n") })
	defer done.Stop()
	_, err := w.until(tag, "IDLE", func(r response) error {
		if err := c.apply(r); err != nil {
			return err
		}
		if _, told := codeNumber(r.code, "HIGHESTMODSEQ"); told {
			c.box.checkpoint()
		}
		if r.kind != "+" && until(c.box) && done.Stop() {
			return w.send("DONE\r\n")
		}
		return nil
	})
	if err == nil {
		c.box.checkpoint()
	}
	return err
}

// Poll asks, in a session of its own kind, only for UIDs from the UIDNEXT that
// it was told the last time on, at whichever node that was. final as in Final.
func (c *Client) Poll(_ context.Context, mailbox string, final bool) error {
	p := c.polled[mailbox]
	if p == nil {
		p = &poll{next: 1}
		c.polled[mailbox] = p
	}
	for round := 0; ; round++ {
		err := c.poll(p, mailbox, final)
		var no *No
		if !errors.As(err, &no) || codeOf(strings.TrimPrefix(no.Answer, "NO ")) != "EXPUNGEISSUED" || round == maxRounds {
			return err
		}
		// Some were expunged as they were listed: no listing to go on from.
	}
}

func (c *Client) poll(p *poll, mailbox string, final bool) error {
	e := c.note(Poll, mailbox)
	e.Final = final
	scratch := newCache(mailbox)
	c.box = nil
	if _, err := c.runWith("SELECT "+mailbox, scratch.apply); err != nil {
		return err
	}
	if p.uidValidity != scratch.UIDValidity {
		*p = poll{uidValidity: scratch.UIDValidity, next: 1}
	}
	e.UIDValidity, e.UIDNext, e.From = scratch.UIDValidity, scratch.uidNext, p.next
	if _, err := c.runWith(fmt.Sprintf("UID FETCH %d:* %s", p.next, items), scratch.apply); err != nil {
		return err
	}
	e.Messages = scratch.List()
	p.next = max(p.next, scratch.uidNext)
	if n := len(e.Messages); n > 0 {
		p.next = max(p.next, e.Messages[n-1].UID+1)
	}
	c.cfg.History.Note(e)
	return nil
}

// Resynced opens a mailbox from the cache, brings that up to date and compares
// it with a full listing.
func (c *Client) Resynced(ctx context.Context, mailbox string) error {
	if err := c.Select(ctx, mailbox); err != nil {
		return err
	}
	e := c.note(Resync, mailbox)
	e.Cached = c.box.List()
	listing := newCache(mailbox)
	listing.UIDValidity = c.box.UIDValidity
	if _, err := c.runWith("UID FETCH 1:* "+items, listing.apply); err != nil {
		return err
	}
	e.Messages = listing.List()
	c.cfg.History.Note(e)
	return nil
}

// Final notes every mailbox of the account as the connected node has it, once
// everything has settled.
func (c *Client) Final(context.Context) error {
	names, err := c.mailboxes()
	if err != nil {
		return err
	}
	for _, mailbox := range names {
		e := c.note(View, mailbox)
		e.Final = true
		listing := newCache(mailbox)
		c.box = nil
		if _, err := c.runWith("EXAMINE "+mailbox, listing.apply); err != nil {
			return err
		}
		if _, err := c.runWith("UID FETCH 1:* "+items, listing.apply); err != nil {
			return err
		}
		e.UIDValidity, e.UIDNext, e.Messages, e.Exists = listing.UIDValidity, listing.uidNext, listing.List(), listing.exists
		c.cfg.History.Note(e)
	}
	return nil
}

// mailboxes lists the account's mailboxes; their names must be atoms.
func (c *Client) mailboxes() ([]string, error) {
	var names []string
	_, err := c.runWith(`LIST "" *`, func(r response) error {
		if r.kind != "LIST" {
			return c.apply(r)
		}
		attributes, name, ok := strings.Cut(r.text, `"/" `)
		if !ok || strings.HasPrefix(name, `"`) || strings.HasPrefix(name, "{") {
			return fmt.Errorf("LIST %.80q: %w", r.text, errProtocol)
		}
		if !strings.Contains(attributes, `\Noselect`) && !strings.Contains(attributes, `\NonExistent`) {
			names = append(names, name)
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}

// Create makes a mailbox, and is content when it is there.
func (c *Client) Create(_ context.Context, mailbox string) error {
	_, err := c.run("CREATE " + mailbox)
	var no *No
	if errors.As(err, &no) && strings.Contains(no.Answer, "[ALREADYEXISTS]") {
		return nil
	}
	return err
}

// Delete deletes a mailbox.
func (c *Client) Delete(_ context.Context, mailbox string) error {
	e := c.note(Delete, mailbox)
	_, err := c.run("DELETE " + mailbox)
	return c.settle(e, err)
}
