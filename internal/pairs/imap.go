package pairs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// client is a small IMAP client: one command at a time, what it answers as
// text. It shares no code with the servers it speaks to.
type client struct {
	conn net.Conn
	r    *bufio.Reader
	tag  int
}

// patience is how long a server may take for one reply.
const patience = time.Minute

// dial connects to host:port and logs in.
func dial(address, user, password string) (*client, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, r: bufio.NewReader(conn)}
	if _, err := c.line(); err != nil {
		c.close()
		return nil, fmt.Errorf("greeting: %w", err)
	}
	if _, err := c.do("LOGIN %s %s", user, password); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *client) close() { _ = c.conn.Close() }

var literal = regexp.MustCompile(`\{(\d+)\+?\}$`)

// line reads a response with its literals in it.
func (c *client) line() (string, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	var whole strings.Builder
	for {
		text, err := c.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		text = strings.TrimRight(text, "\r\n")
		whole.WriteString(text)
		size := literal.FindStringSubmatch(text)
		if size == nil {
			return whole.String(), nil
		}
		n, err := strconv.Atoi(size[1])
		if err != nil {
			return "", err
		}
		octets := make([]byte, n)
		if _, err := io.ReadFull(c.r, octets); err != nil {
			return "", err
		}
		whole.Write(octets)
	}
}

// do runs a command and returns its untagged responses and, last, the tagged
// one. An answer other than OK is an error.
func (c *client) do(format string, args ...any) ([]string, error) {
	c.tag++
	tag := fmt.Sprintf("t%d", c.tag)
	command := fmt.Sprintf(format, args...)
	if _, err := fmt.Fprintf(c.conn, "%s %s\r\n", tag, command); err != nil {
		return nil, err
	}
	return c.result(tag, command)
}

func (c *client) result(tag, command string) ([]string, error) {
	var lines []string
	for {
		text, err := c.line()
		if err != nil {
			return nil, fmt.Errorf("%.40s: %w", command, err)
		}
		lines = append(lines, text)
		if rest, ok := strings.CutPrefix(text, tag+" "); ok {
			if !strings.HasPrefix(rest, "OK") {
				return lines, fmt.Errorf("%.40s: %s", command, rest)
			}
			return lines, nil
		}
	}
}

// add appends a message to a mailbox.
func (c *client) add(mailbox, subject string) error {
	c.tag++
	tag := fmt.Sprintf("t%d", c.tag)
	text := message(subject, 200)
	if _, err := fmt.Fprintf(c.conn, "%s APPEND %q {%d}\r\n", tag, mailbox, len(text)); err != nil {
		return err
	}
	if reply, err := c.line(); err != nil || !strings.HasPrefix(reply, "+") {
		return errors.Join(err, fmt.Errorf("APPEND: %s", reply))
	}
	if _, err := fmt.Fprintf(c.conn, "%s\r\n", text); err != nil {
		return err
	}
	_, err := c.result(tag, "APPEND "+mailbox)
	return err
}

// addMany appends small messages, the commands one behind the other without
// waiting for answers.
func (c *client) addMany(mailbox, prefix string, n int) error {
	var b strings.Builder
	first := c.tag + 1
	for i := range n {
		text := message(fmt.Sprintf("%s%d", prefix, i), 200)
		c.tag++
		fmt.Fprintf(&b, "t%d APPEND %q {%d+}\r\n%s\r\n", c.tag, mailbox, len(text), text)
	}
	if _, err := io.WriteString(c.conn, b.String()); err != nil {
		return err
	}
	for tag := first; tag <= c.tag; tag++ {
		if _, err := c.result(fmt.Sprintf("t%d", tag), "APPEND"); err != nil {
			return err
		}
	}
	return nil
}

// message is a mail that is known by its subject.
func message(subject string, octets int) string {
	header := "From: <sender@pairs.test>\r\nSubject: " + subject + "\r\nMessage-ID: <" + subject + "@pairs.test>\r\n" +
		"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\n\r\n"
	var b strings.Builder
	b.WriteString(header)
	for b.Len() < octets {
		fmt.Fprintf(&b, "%s, line at %d.\r\n", subject, b.Len())
	}
	return b.String()
}

// shown is a message as a client sees it.
type shown struct {
	subject string
	flags   string // sorted, without \Recent
}

// picture is everything a node shows of an account.
type picture map[string]folder

// folder is a mailbox: what each UID names.
type folder struct {
	uidValidity string
	messages    map[int]shown
}

// subjects lists what is in the folder, sorted.
func (f folder) subjects() []string {
	var list []string
	for _, m := range f.messages {
		list = append(list, m.subject)
	}
	slices.Sort(list)
	return list
}

// uidOf returns the UID of the message with a subject, 0 for none.
func (f folder) uidOf(subject string) int {
	for uid, m := range f.messages {
		if m.subject == subject {
			return uid
		}
	}
	return 0
}

// String is the same for pictures that show the same.
func (p picture) String() string {
	var b strings.Builder
	for _, name := range sortedKeys(p) {
		f := p[name]
		fmt.Fprintf(&b, "%s(%s):", name, f.uidValidity)
		for _, uid := range sortedKeys(f.messages) {
			fmt.Fprintf(&b, " %d=%s[%s]", uid, f.messages[uid].subject, f.messages[uid].flags)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func sortedKeys[K int | string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

var (
	listed  = regexp.MustCompile(`^\* LIST \(([^)]*)\) \S+ "?([^"]*?)"?$`)
	valid   = regexp.MustCompile(`UIDVALIDITY (\d+)`)
	fetched = regexp.MustCompile(`(?s)^\* \d+ FETCH \(.*?UID (\d+)`)
	flagged = regexp.MustCompile(`FLAGS \(([^)]*)\)`)
	subject = regexp.MustCompile(`(?i)Subject: (\S+)`)
)

// look reads everything of the account.
func (c *client) look() (picture, error) {
	lines, err := c.do(`LIST "" *`)
	if err != nil {
		return nil, err
	}
	all := make(picture)
	for _, line := range lines {
		found := listed.FindStringSubmatch(line)
		if found == nil || strings.Contains(strings.ToLower(found[1]), `\noselect`) || strings.Contains(strings.ToLower(found[1]), `\nonexistent`) {
			continue
		}
		if all[found[2]], err = c.folder(found[2]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (c *client) folder(name string) (folder, error) {
	f := folder{messages: make(map[int]shown)}
	lines, err := c.do("EXAMINE %q", name)
	if err != nil {
		return f, err
	}
	if found := valid.FindStringSubmatch(strings.Join(lines, "\n")); found != nil {
		f.uidValidity = found[1]
	}
	if lines, err = c.do("UID FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])"); err != nil {
		return f, err
	}
	for _, line := range lines {
		uid := fetched.FindStringSubmatch(line)
		if uid == nil {
			continue
		}
		n, err := strconv.Atoi(uid[1])
		if err != nil {
			return f, err
		}
		// Others' changes are told with flags alone, behind the answer.
		m := f.messages[n]
		if found := subject.FindStringSubmatch(line); found != nil {
			m.subject = found[1]
		}
		if found := flagged.FindStringSubmatch(line); found != nil {
			var flags []string
			for _, flag := range strings.Fields(found[1]) {
				if flag != `\Recent` {
					flags = append(flags, flag)
				}
			}
			slices.Sort(flags)
			m.flags = strings.Join(flags, " ")
		}
		if m.subject != "" {
			f.messages[n] = m
		}
	}
	return f, nil
}

var modSeq = regexp.MustCompile(`HIGHESTMODSEQ (\d+)`)

// state reads what a client that synchronises quickly keeps of INBOX.
func (c *client) state() (validity, modseq string, err error) {
	lines, err := c.do("STATUS INBOX (UIDVALIDITY HIGHESTMODSEQ)")
	if err != nil {
		return "", "", err
	}
	answer := strings.Join(lines, "\n")
	v, m := valid.FindStringSubmatch(answer), modSeq.FindStringSubmatch(answer)
	if v == nil || m == nil {
		return "", "", fmt.Errorf("STATUS: %s", answer)
	}
	return v[1], m[1], nil
}

// lmtp is a connection that brings mail, by LMTP or SMTP.
type lmtp struct {
	conn net.Conn
	text *textproto.Conn
}

func openLMTP(address string) (*lmtp, error) { return openMail(address, "LHLO") }

func openMail(address, hello string) (*lmtp, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	s := &lmtp{conn, textproto.NewConn(conn)}
	if err := s.await(220, "greeting"); err != nil {
		s.close()
		return nil, err
	}
	if err := s.say(250, hello+" driver.pairs.test"); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *lmtp) close() { _ = s.conn.Close() }

func (s *lmtp) say(code int, line string) error {
	if err := s.text.PrintfLine("%s", line); err != nil {
		return err
	}
	return s.await(code, line)
}

func (s *lmtp) await(code int, line string) error {
	if err := s.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, _, err := s.text.ReadResponse(code); err != nil {
		return fmt.Errorf("%.30s: %w", line, err)
	}
	return nil
}

// deliver hands one message over.
func (s *lmtp) deliver(user, text string) error {
	for _, step := range []struct {
		code int
		line string
	}{{250, "MAIL FROM:<sender@pairs.test>"}, {250, "RCPT TO:<" + user + ">"}, {354, "DATA"}} {
		if err := s.say(step.code, step.line); err != nil {
			return err
		}
	}
	w := s.text.DotWriter()
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return s.await(250, "end of data")
}

// deliver hands a message over by a connection of its own.
func deliver(address, user, text string) error {
	s, err := openLMTP(address)
	if err != nil {
		return err
	}
	defer s.close()
	return s.deliver(user, text)
}

// send hands a message over by SMTP.
func send(address, user, text string) error {
	s, err := openMail(address, "EHLO")
	if err != nil {
		return err
	}
	defer s.close()
	return s.deliver(user, text)
}
