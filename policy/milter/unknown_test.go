package milter

import (
	"context"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// unknown tells of a command line that is none, and returns the reply when it is
// the filter's.
func (d *dialogue) unknown(line string) string {
	d.t.Helper()
	v := d.a.(policy.CommandWitness).Unknown(context.Background(), &d.tx, line)
	if v.Action != mail.Reject {
		return ""
	}
	return v.WireReply().String()
}

// saying is a filter that answers the first of such commands so, and lets the
// others pass.
func saying(replies ...string) *filter {
	return &filter{options: agree(6, allActions, 0), says: map[byte][][]string{cmdUnknown: {replies}}}
}

// unknowns are the lines of a filter that tell of such commands.
func (f *filter) unknowns() []string {
	return slices.DeleteFunc(f.all(), func(line string) bool { return line[0] != cmdUnknown })
}

// A filter's reply stands in the place of ours; whatever else it says changes
// nothing, for the session or the message.
func TestUnknownCommand(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		filter *filter
		want   string
		told   bool
		ends   bool // the filter, when the message comes
	}{
		"continue":     {saying("c"), "", true, false},
		"accept":       {saying("a"), "", true, false},
		"discard":      {saying("d"), "", true, false},
		"reject":       {saying("r"), "550 5.7.1 Command rejected", true, false},
		"tempfail":     {saying("t"), "451 4.7.1 Service unavailable - try again later", true, false},
		"its own":      {saying(say('y', "502 5.5.1 Go away\x00")), "502 5.5.1 Go away", true, false},
		"in a while":   {saying("p", "p", "c"), "", true, false},
		"silent":       {&filter{silent: "U", options: agree(6, allActions, silentUnknown)}, "", true, false},
		"not asked":    {&filter{options: agree(6, allActions, noUnknown)}, "", false, false},
		"version 3":    {&filter{options: agree(3, actAddHeaders, 0)}, "", true, false},
		"version 2":    {&filter{options: agree(2, actAddHeaders, 0)}, "", false, false},
		"nonsense":     {saying("z"), "", true, true},
		"end of all":   {saying(), "", true, true},
		"out of place": {saying("s"), "", true, true},
	} {
		for _, inMessage := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", in a transaction"}[inMessage], func(t *testing.T) {
				t.Parallel()
				f := newFilter(t, &filter{options: c.filter.options, says: c.filter.says, silent: c.filter.silent})
				d := f.milter(nil).dialogue(t)
				d.step(mail.PhaseConnect)
				d.step(mail.PhaseHelo)
				if inMessage {
					d.step(mail.PhaseMail)
				}
				if got := d.unknown("FOO bar  baz"); got != c.want {
					t.Errorf("reply %q, want %q", got, c.want)
				}
				if inMessage {
					d.step(mail.PhaseRecipient)
					d.step(mail.PhaseData)
					d.content()
				} else {
					d.transaction()
				}
				last := d.verdicts[len(d.verdicts)-1]
				// What failed before MAIL is asked again there.
				if failed := last.Action == mail.Reject; failed != (c.ends && inMessage) {
					t.Errorf("the message: %+v", last)
				}
				if got := f.unknowns(); slices.Equal(got, []string{"U FOO bar  baz"}) != c.told {
					t.Errorf("heard %q", f.all())
				}
				if !c.ends && !f.has("E") {
					t.Errorf("the message was not asked about: %q", f.all())
				}
			})
		}
	}
}

// A filter that is told of nothing before MAIL is told of this, once it is known
// that it wants to; one that refused the session has said all there is to say.
func TestUnknownCommandBeforeMail(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{options: agree(6, allActions, noConnect|noHelo)})
	m := f.milter(nil)
	m.dialogue(t).all()
	d := m.dialogue(t)
	d.step(mail.PhaseConnect)
	d.unknown("FOO")
	if got := f.unknowns(); !slices.Equal(got, []string{"U FOO"}) {
		t.Errorf("heard %q", got)
	}
	if v := d.transaction(); v.Action != mail.Dunno || v.Detail != "" {
		t.Errorf("verdict %+v", v)
	}

	f = newFilter(t, &filter{says: map[byte][][]string{cmdConnect: {{say('y', "554 5.7.1 Not you\x00")}}}})
	d = f.milter(nil).dialogue(t)
	d.step(mail.PhaseConnect)
	if got := d.unknown("FOO"); got != "554 5.7.1 Not you" || len(f.unknowns()) > 0 {
		t.Errorf("reply %q, heard %q", got, f.all())
	}
}

// Shutdown ends the session, as anywhere.
func TestShutdownAtUnknownCommand(t *testing.T) {
	t.Parallel()
	for _, reply := range []string{"4", "f"} {
		f := newFilter(t, saying(reply))
		d := f.milter(nil).dialogue(t)
		d.step(mail.PhaseConnect)
		d.step(mail.PhaseHelo)
		d.step(mail.PhaseMail)
		if got := d.unknown("FOO"); !strings.HasPrefix(got, "421 ") {
			t.Errorf("%s: %q", reply, got)
		}
		d.a.Abort()
	}
}

// A real Postfix tells filters of the same commands, and what they say to it
// stands for the same.
func TestUnknownCommandAsPostfix(t *testing.T) {
	t.Parallel()
	replies := map[string]string{
		"continue": "c", "accept": "a", "reject": "r", "tempfail": "t", "own": say('y', "502 5.5.1 Go away\x00"), "shutdown": "4",
	}
	lines := []string{"FOO", "FOO bar  baz", "foo\tbar", "XYZZY", "NOOP", "QUIT"}
	var services []*testenv.PostfixService
	theirs := make(map[string]*filter)
	address := make(map[string]*testenv.PostfixService)
	for name, reply := range replies {
		f := newFilter(t, saying(reply))
		letIn(t, f.address)
		theirs[name] = f
		address[name] = &testenv.PostfixService{Settings: []string{"smtpd_milters = unix:" + f.address}}
		services = append(services, address[name])
	}
	testenv.PostfixServices(t, []string{"smtpd_error_sleep_time = 0"}, services)
	for name, reply := range replies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours := newFilter(t, saying(reply))
			d := ours.milter(nil).dialogue(t)
			d.step(mail.PhaseConnect)
			d.step(mail.PhaseHelo)
			// The filter answers the first one so, and lets the others pass.
			got, want := talk(t, address[name].Address, lines)[0], d.unknown(lines[0])
			if want == "" {
				want = "500 5.5.2" // the server's own
			}
			if !strings.HasPrefix(got, want[:3]) || name == "own" && got != want {
				t.Errorf("Postfix says %q, we say %q", got, want)
			}
			if name == "shutdown" {
				return
			}
			for _, line := range lines[1:4] {
				d.unknown(line)
			}
			// Postfix lets go of a filter's session that accepted something that is
			// no message; here it goes on. And it tells the first word only.
			told := ours.unknowns()
			for i, line := range told {
				told[i] = "U " + strings.Fields(line)[1]
			}
			if name != "accept" && !slices.Equal(told, theirs[name].unknowns()) {
				t.Errorf("told by Postfix %q, by us %q", theirs[name].unknowns(), told)
			}
		})
	}
}

// letIn lets Postfix's processes, which run as another user, to a filter.
func letIn(t *testing.T, socket string) {
	t.Helper()
	for path, mode := range map[string]os.FileMode{socket: 0o777, filepath.Dir(socket): 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
}

// talk says lines after EHLO and returns the replies, as far as there are any.
func talk(t *testing.T, address string, lines []string) []string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	text := textproto.NewConn(c)
	if _, _, err := text.ReadResponse(220); err != nil {
		t.Fatal(err)
	}
	var replies []string
	for _, line := range slices.Concat([]string{"EHLO helo.example"}, lines) {
		if err := text.PrintfLine("%s", line); err != nil {
			break
		}
		reply, err := text.ReadLine()
		for err == nil && len(reply) > 3 && reply[3] == '-' {
			reply, err = text.ReadLine()
		}
		if err != nil {
			break
		}
		replies = append(replies, reply)
	}
	if len(replies) < 2 {
		t.Fatalf("replies %q", replies)
	}
	return replies[1:]
}
