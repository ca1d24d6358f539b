package smtp

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// tallied are the commands that are counted, as Postfix orders them; the last
// is what is no command.
var tallied = [...]string{
	"HELO", "EHLO", "LHLO", "XCLIENT", "XFORWARD", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY", "EXPN", "HELP", "ETRN",
	"KEPT", "QUIT", "UNKNOWN",
}

// rowOf returns a verb's place in the tally.
func rowOf(verb string) int {
	if row := slices.Index(tallied[:], verb); row >= 0 {
		return row
	}
	return len(tallied) - 1
}

// tally counts the commands of a session: those that were given, and those that
// were done. A message that was not taken is a DATA that was not done.
type tally struct {
	rows    [len(tallied)]struct{ given, done uint32 }
	last    int  // row of the present command, plus one; 0 before the first
	refused bool // something was refused since the command began
}

// begin counts a command that is given; nil is none of ours.
func (t *tally) begin(cmd *command) {
	row := len(tallied) - 1
	if cmd != nil {
		row = cmd.row
	}
	t.rows[row].given++
	t.last, t.refused = row+1, false
}

// end counts it as done, unless it was refused or cut off.
func (t *tally) end(err error) {
	if !t.refused && (err == nil || errors.Is(err, errQuit)) {
		t.rows[t.last-1].done++
	}
}

// dialogue is what was counted.
func (t *tally) dialogue() mail.Dialogue {
	var d mail.Dialogue
	if t.last > 0 {
		d.Last = tallied[t.last-1]
	}
	var all, done uint32
	buf := make([]byte, 0, 96)
	for i, r := range t.rows {
		if r.given > 0 {
			buf = appendCount(append(buf, strings.ToLower(tallied[i])...), r.done, r.given)
			buf = append(buf, ' ')
			all, done = all+r.given, done+r.done
		}
	}
	d.Commands = string(appendCount(append(buf, "commands"...), done, all))
	return d
}

// appendCount appends "=DONE", and "/GIVEN" where that is not the same or
// nothing.
func appendCount(buf []byte, done, given uint32) []byte {
	buf = strconv.AppendUint(append(buf, '='), uint64(done), 10)
	if done != given || given == 0 {
		buf = strconv.AppendUint(append(buf, '/'), uint64(given), 10)
	}
	return buf
}
