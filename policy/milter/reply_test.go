package milter

import (
	"bufio"
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Each reply at each step: what becomes of the step, of what follows it in the
// transaction, and of the next message of the session.
func TestReplies(t *testing.T) {
	t.Parallel()
	const (
		goesOn   = "dunno"
		rejected = "550 5.7.1 Command rejected"
		deferred = "451 4.7.1 Service unavailable - try again later"
		closed   = "421 4.7.0 Service unavailable - try again later"
		own      = "552 5.7.9 no"
	)
	type row struct {
		command byte
		reply   string
		steps   string // the verdicts of the session's steps
		next    string // the verdict on the next message
	}
	rows := []row{
		{cmdConnect, "a", "dunno dunno dunno dunno dunno dunno", goesOn},
		{cmdConnect, "r", rejected, rejected},
		{cmdConnect, "t", deferred, deferred},
		{cmdConnect, "4", closed, closed},
		{cmdConnect, "f", closed, closed},
		{cmdHelo, "a", "dunno dunno dunno dunno dunno dunno", goesOn},
		{cmdHelo, "r", "dunno " + rejected, rejected},
		{cmdHelo, "y552 5.7.9 no\x00", "dunno " + own, own},
		{cmdMail, "a", "dunno dunno dunno dunno dunno dunno", goesOn},
		{cmdMail, "r", "dunno dunno " + rejected, goesOn},
		{cmdMail, "t", "dunno dunno " + deferred, goesOn},
		{cmdMail, "d", "dunno dunno discard dunno dunno dunno", goesOn},
		{cmdMail, "4", "dunno dunno " + closed, goesOn},
		{cmdRcpt, "r", "dunno dunno dunno " + rejected, goesOn},
		{cmdRcpt, "y552 5.7.9 no\x00", "dunno dunno dunno " + own, goesOn},
		{cmdRcpt, "a", "dunno dunno dunno dunno dunno dunno", goesOn},
		{cmdRcpt, "d", "dunno dunno dunno discard dunno dunno", goesOn},
		{cmdData, "r", "dunno dunno dunno dunno " + rejected, goesOn},
		{cmdData, "t", "dunno dunno dunno dunno " + deferred, goesOn},
		{cmdHeader, "r", "dunno dunno dunno dunno dunno " + rejected, goesOn},
		{cmdHeader, "a", "dunno dunno dunno dunno dunno dunno", goesOn},
		{cmdHeader, "d", "dunno dunno dunno dunno dunno discard", goesOn},
		{cmdEOH, "t", "dunno dunno dunno dunno dunno " + deferred, goesOn},
		{cmdBody, "y552 5.7.9 no\x00", "dunno dunno dunno dunno dunno " + own, goesOn},
		{cmdBody, "a", "dunno dunno dunno dunno dunno dunno", goesOn},
		{cmdEOM, "c", "dunno dunno dunno dunno dunno dunno", goesOn},
		{cmdEOM, "a", "dunno dunno dunno dunno dunno dunno", goesOn},
		{cmdEOM, "r", "dunno dunno dunno dunno dunno " + rejected, goesOn},
		{cmdEOM, "t", "dunno dunno dunno dunno dunno " + deferred, goesOn},
		{cmdEOM, "d", "dunno dunno dunno dunno dunno discard", goesOn},
		{cmdEOM, "y452-4.2.2 one\r\n452 4.2.2 two\x00", "dunno dunno dunno dunno dunno 452 4.2.2 one two", goesOn},
		{cmdEOM, "4", "dunno dunno dunno dunno dunno " + closed, goesOn},
	}
	for _, r := range rows {
		t.Run(string(r.command)+" "+r.reply, func(t *testing.T) {
			t.Parallel()
			f := newFilter(t, &filter{says: map[byte][][]string{r.command: {{r.reply}}}})
			d := f.milter(nil).dialogue(t)
			d.all()
			var steps []string
			for _, v := range d.verdicts {
				steps = append(steps, describe(v))
			}
			if got := strings.Join(steps, " "); got != r.steps {
				t.Errorf("steps %q, want %q", got, r.steps)
			}
			if got := describe(d.transaction()); got != r.next {
				t.Errorf("the next message: %q, want %q", got, r.next)
			}
		})
	}
}

func describe(v mail.Verdict) string {
	if v.Action == mail.Reject {
		return v.WireReply().String()
	}
	return v.Action.String()
}

func TestParseReply(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"550 5.7.1 no\x00":                    "550 5.7.1 no",
		"550 5.7.1 no":                        "550 5.7.1 no",
		"450 4.2.2 100%% full":                "450 4.2.2 100% full",
		"550 4.7.1 classes differ":            "550 5.7.1 classes differ",
		"550 just text":                       "550 just text",
		"550":                                 "550",
		"550 5.7.1":                           "550 5.7.1 ",
		"550-5.7.1 a\r\n550-5.7.1 b\r\n550 c": "550 5.7.1 a b c",
		"550-5.7.1 a\n550 5.7.1 b\n":          "550 5.7.1 a b",
		"421 4.7.0 closing":                   "421 4.7.0 closing",
		"550 5.7.1 a\rb\x01c":                 "550 5.7.1 abc",
		"250 2.0.0 ok":                        "error",
		"650 x":                               "error",
		"":                                    "error",
		"55":                                  "error",
		"550x5.7.1 no":                        "error",
		"550-5.7.1 a\r\n450 4.7.1 b":          "error",
		strings.Repeat("550-x\r\n", 40) + "550 x": "error",
		"550 5.7.1234 x": "550 5.7.1234 x",
	} {
		r, err := parseReply(in)
		got := "error"
		if err == nil {
			got = r.String()
		}
		if strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestEdits(t *testing.T) {
	t.Parallel()
	index := func(n byte, rest string) string { return string([]byte{0, 0, 0, n}) + rest }
	for name, c := range map[string]struct {
		says []string
		want string // the fields that are not ours, in one line each
	}{
		"add":                     {[]string{say('h', "X-A\x001\x00")}, "From Subject X-Tag:1 X-Tag:2 X-A:1"},
		"add without a value":     {[]string{say('h', "X-A\x00\x00")}, "From Subject X-Tag:1 X-Tag:2 X-A:"},
		"insert on top":           {[]string{say('i', index(0, "X-A\x001\x00"))}, "X-A:1 From Subject X-Tag:1 X-Tag:2"},
		"insert below the trace":  {[]string{say('i', index(1, "X-A\x001\x00"))}, "X-A:1 From Subject X-Tag:1 X-Tag:2"},
		"insert second":           {[]string{say('i', index(2, "X-A\x001\x00"))}, "From X-A:1 Subject X-Tag:1 X-Tag:2"},
		"insert far below":        {[]string{say('i', index(200, "X-A\x001\x00"))}, "From Subject X-Tag:1 X-Tag:2 X-A:1"},
		"insert two on top":       {[]string{say('i', index(0, "X-A\x001\x00")), say('i', index(0, "X-B\x001\x00"))}, "X-B:1 X-A:1 From Subject X-Tag:1 X-Tag:2"},
		"change the first":        {[]string{say('m', index(1, "x-tag\x00new\x00"))}, "From Subject x-tag:new X-Tag:2"},
		"change the second":       {[]string{say('m', index(2, "X-Tag\x00new\x00"))}, "From Subject X-Tag:1 X-Tag:new"},
		"change number 0":         {[]string{say('m', index(0, "X-Tag\x00new\x00"))}, "From Subject X-Tag:new X-Tag:2"},
		"change what is not":      {[]string{say('m', index(3, "X-Tag\x00new\x00"))}, "From Subject X-Tag:1 X-Tag:2 X-Tag:new"},
		"delete the second":       {[]string{say('m', index(2, "X-Tag\x00\x00"))}, "From Subject X-Tag:1"},
		"delete what is not":      {[]string{say('m', index(3, "X-Tag\x00\x00"))}, "From Subject X-Tag:1 X-Tag:2"},
		"delete both, last first": {[]string{say('m', index(2, "X-Tag\x00\x00")), say('m', index(1, "X-Tag\x00\x00"))}, "From Subject"},
		"delete our trace":        {[]string{say('m', index(1, "Received\x00\x00"))}, "From Subject X-Tag:1 X-Tag:2"},
		"change what was added":   {[]string{say('h', "X-A\x001\x00"), say('m', index(1, "X-A\x002\x00"))}, "From Subject X-Tag:1 X-Tag:2 X-A:2"},
		"folds":                   {[]string{say('h', "X-A\x00one\n two\nthree\r\n\tfour\n\n \nfive\x00")}, "From Subject X-Tag:1 X-Tag:2 X-A:one\r\n_two\r\n\tthree\r\n\tfour\r\n\tfive"},
		"no NUL at the end":       {[]string{say('h', "X-A\x001")}, "From Subject X-Tag:1 X-Tag:2 X-A:1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFilter(t, &filter{options: agree(6, allActions, 0), says: map[byte][][]string{cmdEOM: {append(c.says, "c")}}})
			d := f.milter(nil).dialogue(t)
			if v := d.all(); v.Action != mail.Dunno || v.Detail != "" {
				t.Fatalf("verdict %+v", v)
			}
			var got []string
			for i, field := range d.message.fields {
				s := strings.ReplaceAll(strings.Replace(string(field), ": ", ":", 1), " ", "_")
				if strings.HasPrefix(s, "From") || strings.HasPrefix(s, "Subject") {
					s = field.Name()
				}
				if i == 0 && field.Name() != "Received" {
					t.Errorf("our trace is not on top: %q", d.message.fields)
				}
				if i > 0 {
					got = append(got, s)
				}
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got  %q\nwant %q", s, c.want)
			}
		})
	}
}

func TestEnvelopeEdits(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{options: agree(6, allActions, 0), says: map[byte][][]string{cmdEOM: {{
		say('+', "<new@example.com>\x00"), say('2', "<par@example.com>\x00NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x\x00"),
		say('-', "<b@example.com>\x00"), say('e', "<>\x00"), say('e', "bounce@example.net\x00RET=HDRS\x00"), say('q', "looks bad\x00"), "a",
	}}}})
	d := f.milter(nil).dialogue(t)
	v := d.all()
	if v.Action != mail.Hold || v.Detail != "the filter quarantines: looks bad" {
		t.Errorf("verdict %v %q", v.Action, v.Detail)
	}
	if len(v.Edits) != 5 {
		t.Fatalf("%d edits: %+v", len(v.Edits), v.Edits)
	}
	if r := v.Edits[0].Add; r == nil || r.Address != address("new@example.com") || r.Notify != 0 {
		t.Errorf("added %+v", r)
	}
	if r := v.Edits[1].Add; r == nil || r.Address != address("par@example.com") || r.Notify != mail.NotifySuccess|mail.NotifyDelay {
		t.Errorf("added %+v", r)
	}
	if a := v.Edits[2].Remove; a == nil || *a != address("b@example.com") {
		t.Errorf("removed %+v", a)
	}
	if a := v.Edits[3].ReversePath; a == nil || !a.IsNull() {
		t.Errorf("reverse-path %+v", a)
	}
	if a := v.Edits[4].ReversePath; a == nil || *a != address("bounce@example.net") {
		t.Errorf("reverse-path %+v", a)
	}
}

func TestReplacedBody(t *testing.T) {
	t.Parallel()
	part := strings.Repeat("x", 60_000)
	for name, parts := range map[string]int{"in memory": 2, "in a file": 40} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			says := slices.Repeat([]string{say('b', part)}, parts)
			f := newFilter(t, &filter{options: agree(6, allActions, 0), says: map[byte][][]string{cmdEOM: {append(says, "p", "c")}}})
			d := f.milter(func(c *Config) { c.TempDir = t.TempDir() }).dialogue(t)
			d.all()
			if d.message.body != strings.Repeat(part, parts) {
				t.Errorf("a body of %d octets", len(d.message.body))
			}
			if v := d.transaction(); v.Action != mail.Dunno || len(v.Edits) != 0 {
				t.Errorf("the next message: %+v", v)
			}
		})
	}
}

// What a filter asked for before it refused is not done.
func TestNoEditsOfARefusal(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{options: agree(6, allActions, 0), says: map[byte][][]string{cmdEOM: {{say('h', "X-A\x001\x00"), say('q', "x\x00"), "r"}}}})
	d := f.milter(nil).dialogue(t)
	if v := d.all(); v.Action != mail.Reject || v.Reason != status.FilterRejected || len(v.Edits) != 0 {
		t.Errorf("verdict %+v", v)
	}
}

func FuzzPackets(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01c"), true)
	f.Add(append([]byte("\x00\x00\x00\x0dO"), negotiateReply(6, 1, 0)...), true)
	f.Add([]byte("\x00\x00\x00\x08hX-A\x001\x00\x00\x00\x00\x01c"), false)
	f.Add([]byte("\x00\x00\x00\x0ei\x00\x00\x00\x01X-A\x001\x00"), false)
	f.Add([]byte("\x00\x00\x00\x12m\x00\x00\x00\x01Subject\x00x\ny\x00"), false)
	f.Add([]byte("\x00\x00\x00\x0fy550 5.7.1 no\x00"), false)
	f.Add([]byte("\x7f\xff\xff\xffb"), false)
	f.Fuzz(func(t *testing.T, data []byte, spaced bool) {
		o := &options{actions: allActions}
		if spaced {
			o.steps = leadingSpace
		}
		message := newLetter()
		e := newEdits(o, message)
		r := bufio.NewReader(bytes.NewReader(data))
		for {
			reply, data, err := readPacket(r, nil)
			if err != nil {
				break
			}
			if reply == cmdNegotiate {
				if got, err := parseOptions(data, maxVersion); err == nil && (got.version > maxVersion || got.maxData > maxData1M) {
					t.Errorf("options %+v", got)
				}
			}
			isEdit, err := e.permit(reply)
			if err != nil {
				break
			}
			if !isEdit {
				if ans, err := decide(reply, data, inBody); err == nil && ans.verdict.Action == mail.Reject && ans.verdict.WireReply().Positive() {
					t.Errorf("a refusal says %v", ans.verdict.WireReply())
				}
				continue
			}
			if reply == replyBody {
				continue
			}
			if e.take(reply, data) != nil {
				break
			}
		}
		// What is collected can be done, and makes what was played through.
		for _, edit := range e.list {
			if err := message.Apply(edit); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(message.fields, e.fields) {
			t.Errorf("fields %q, played through %q", message.fields, e.fields)
		}
		for _, field := range message.fields {
			for _, line := range strings.Split(string(field), "\r\n")[1:] {
				if line == "" || line[0] != ' ' && line[0] != '\t' {
					t.Errorf("%q holds another field", field)
				}
			}
			if strings.ContainsAny(strings.ReplaceAll(string(field), "\r\n", ""), "\r\n") {
				t.Errorf("bare line end in %q", field)
			}
		}
		if !message.fields[0].Is("Received") {
			t.Errorf("our trace is not on top: %q", message.fields)
		}
	})
}
