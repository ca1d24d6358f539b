// Package checks is Postfix's header_checks, mime_header_checks,
// nested_header_checks and body_checks (header_checks(5)) as stages of the
// content list.
//
// What comes in: the message of a transaction, and tables that hold an action
// for the header fields and body lines they match. What goes out: one verdict
// with the edits, the refusal, and what is to be logged. What it guarantees: each
// stage sees the fields and lines that Postfix's cleanup sees, in their order,
// octets that are no text included; time grows with the message, as expressions
// are RE2's; changes are bounded. What it leaves to others: to apply the edits
// (package content), and what a failure leads to (package policy). A lookup that
// fails is an error: the message waits.
package checks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/content"
	"github.com/postern-mail/postern/policy/content/mime"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// The names of the stages.
const (
	Header       = "header_checks"
	MIMEHeader   = "mime_header_checks"
	NestedHeader = "nested_header_checks"
	Body         = "body_checks"
)

// Names returns the names of the stages.
func Names() []string { return []string{Header, MIMEHeader, NestedHeader, Body} }

// Config is what the stages of one list have in common.
type Config struct {
	// Tables opens tables. Required.
	Tables *table.Opener
	// List is the whole list: header_checks looks at the fields that no other
	// stage of it does.
	List []policy.Spec
	// Routes reads where FILTER sends mail; nil where no mail goes out.
	Routes func(text string) (mail.Route, error)
	// FieldOctets is how much of a field is looked at; 0 is 102400.
	FieldOctets int
}

// Stage is one of the checks. It implements policy.Inspector.
type Stage struct {
	name  string
	table table.Opened
	// header, part, nested and body tell what it looks at.
	header, part, nested, body bool
	limits                     mime.Limits
	bodyOctets                 int64 // of each body; 0 for all
	routes                     func(text string) (mail.Route, error)
}

// New makes a stage of its specification. The error tells what is wrong with it,
// or with its table, each mistake with its line.
func New(spec policy.Spec, cfg Config) (*Stage, error) {
	s := &Stage{name: strings.ToLower(spec.Name), bodyOctets: 51200, routes: cfg.Routes}
	s.limits.FieldOctets = cfg.FieldOctets
	switch s.name {
	case Header:
		s.header = true
		s.part = !slices.ContainsFunc(cfg.List, named(MIMEHeader))
		s.nested = !slices.ContainsFunc(cfg.List, named(NestedHeader))
	case MIMEHeader:
		s.part = true
	case NestedHeader:
		s.nested = true
	case Body:
		s.body = true
	default:
		return nil, fmt.Errorf("there is no check of that name; there are %s", strings.Join(Names(), ", "))
	}
	if err := s.attributes(spec.Args); err != nil {
		return nil, err
	}
	var err error
	s.table, err = cfg.Tables.Open(strings.Join(spec.Args["table"], " "), table.Use{Value: func(text string) ([]string, error) {
		_, err := s.parse(text)
		return []string{text}, err
	}})
	return s, err
}

func named(name string) func(policy.Spec) bool {
	return func(s policy.Spec) bool { return strings.EqualFold(s.Name, name) }
}

// attributes reads what stands in the block.
func (s *Stage) attributes(args map[string][]string) error {
	if len(args["table"]) != 1 {
		return errors.New(`it needs one table, such as table = "regexp:FILE"`)
	}
	known := []string{"table", "on_error", "mime_nesting_limit", "mime_boundary_length_limit", "disable_mime_input_processing"}
	if s.body {
		known = append(known, "body_checks_size_limit")
	}
	for name, values := range args {
		if !slices.Contains(known, name) {
			return fmt.Errorf("it does not know the attribute %q; it takes %s", name, strings.Join(known, ", "))
		}
		switch name {
		case "table", "on_error":
		case "disable_mime_input_processing":
			switch value := strings.Join(values, " "); value {
			case "yes", "true":
				s.limits.Flat = true
			case "no", "false":
			default:
				return fmt.Errorf("%s is %q; write yes or no", name, value)
			}
		default:
			n, err := strconv.ParseInt(strings.Join(values, " "), 10, 32)
			if err != nil || n < 0 || n == 0 && name != "body_checks_size_limit" {
				return fmt.Errorf("%s is %q; write a number above 0", name, strings.Join(values, " "))
			}
			switch name {
			case "mime_nesting_limit":
				s.limits.Nesting = int(n)
			case "mime_boundary_length_limit":
				s.limits.BoundaryOctets = int(n)
			default:
				s.bodyOctets = n
			}
		}
	}
	return nil
}

// Name implements policy.Stage.
func (s *Stage) Name() string { return s.name }

// InspectsMessage implements policy.Inspector.
func (s *Stage) InspectsMessage() {}

// Run looks for changes of the table until ctx ends.
func (s *Stage) Run(ctx context.Context) error { return s.table.Run(ctx) }

// methodPass is the finding by which PASS ends the checks that follow.
const methodPass = "x-checks"

var errStop = errors.New("decided")

// Evaluate implements policy.Stage.
func (s *Stage) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	if slices.ContainsFunc(tx.Findings, func(f mail.Finding) bool { return f.Method == methodPass }) {
		return mail.Verdict{}, nil
	}
	v := &visit{stage: s, ctx: ctx}
	m := tx.Message
	var err error
	if s.part || s.nested || s.body {
		err = mime.Walk(ctx, s.limits, m.Fields(), m.Body(), v)
	} else {
		err = mime.Walk(ctx, s.limits, m.Fields(), nil, v)
	}
	if err != nil && !errors.Is(err, errStop) && !errors.Is(err, mime.ErrNesting) {
		return mail.Verdict{}, err
	}
	if errors.Is(err, mime.ErrNesting) {
		return mail.Verdict{Action: mail.Reject, Reason: status.MIMETooDeep}, nil
	}
	return v.verdict(m), nil
}

// visit is one message's way through a stage.
type visit struct {
	stage *Stage
	ctx   context.Context

	action mail.Action
	reply  *status.Reply
	reason status.Reason
	fields []mail.Edit // of the message's own, in order
	body   splices
	others []mail.Edit // of the envelope
	told   []string
	untold int
	passed bool
}

// maxEnvelopeEdits bounds what one stage changes in one envelope.
const maxEnvelopeEdits = 1000

// maxTold bounds what one stage says of one message in the log.
const maxTold = 20

// verdict puts together what the visit came to.
func (v *visit) verdict(m mail.Message) mail.Verdict {
	if v.untold > 0 {
		v.told = append(v.told, fmt.Sprintf("and %d more", v.untold))
	}
	out := mail.Verdict{Action: v.action, Reason: v.reason, Reply: v.reply, Detail: strings.Join(v.told, "; ")}
	if v.passed {
		out.Findings = []mail.Finding{{Method: methodPass, Result: "pass"}}
	}
	if v.action == mail.Reject || v.action == mail.Discard {
		return out
	}
	// From the last to the first, so that the places of those to come stay.
	slices.Reverse(v.fields)
	out.Edits = append(v.fields, v.others...)
	if len(v.body.all) > 0 {
		out.Edits = append(out.Edits, mail.Edit{Body: v.body.apply(m.Body())})
	}
	return out
}

// mimeFields are those that mime_header_checks looks at wherever they stand.
var mimeFields = []string{"content-description", "content-disposition", "content-id", "content-transfer-encoding", "content-type", "mime-version"}

// Field implements mime.Visitor.
func (v *visit) Field(f mime.Field) error {
	name, _, _ := strings.Cut(string(f.Text[:min(len(f.Text), 40)]), ":")
	looks := v.stage.header
	switch {
	case f.Class == mime.Part || slices.Contains(mimeFields, strings.ToLower(name)):
		looks = v.stage.part
	case f.Class == mime.Nested:
		looks = v.stage.nested
	}
	if !looks {
		return nil
	}
	a, err := v.lookup(f.Text)
	if err != nil || a == nil {
		return err
	}
	if err := v.do(a, "header", f.Text); err != nil {
		return err
	}
	if f.Class != mime.Primary {
		field, err := content.Clean(mail.Field(a.text))
		if err != nil && (a.verb == replace || a.verb == prepend) {
			return err
		}
		return v.change(a, f.Start, f.End, string(field)+"\r\n")
	}
	switch a.verb {
	case ignore, strip:
		v.fields = append(v.fields, mail.Edit{Change: &mail.ChangeField{At: int(f.Start)}})
	case replace:
		v.fields = append(v.fields, mail.Edit{Change: &mail.ChangeField{At: int(f.Start), Field: mail.Field(a.text)}})
	case prepend:
		v.fields = append(v.fields, mail.Edit{Insert: &mail.InsertField{At: int(f.Start), Field: mail.Field(a.text)}})
	}
	return nil
}

// Body implements mime.Visitor.
func (v *visit) Body() error { return nil }

// Line implements mime.Visitor.
func (v *visit) Line(l mime.Line) error {
	if !v.stage.body || v.stage.bodyOctets > 0 && l.Offset >= v.stage.bodyOctets {
		return mime.ErrSkipBody
	}
	a, err := v.lookup(l.Text)
	if err != nil || a == nil {
		return err
	}
	if err := v.do(a, "body", l.Text); err != nil {
		return err
	}
	if l.Start < 0 || l.Blank {
		return nil // without the line that ends a header, what follows would be header
	}
	end := l.Start + int64(len(l.Text))
	switch {
	case a.verb == replace:
		return v.change(a, l.Start, end, a.text)
	case l.Begins && l.Ends:
		end += int64(len("\r\n"))
	}
	return v.change(a, l.Start, end, a.text+"\n")
}

// change changes octets of the body.
func (v *visit) change(a *action, start, end int64, text string) error {
	switch a.verb {
	case ignore, strip:
		return v.body.add(start, end, "")
	case replace:
		return v.body.add(start, end, text)
	case prepend:
		return v.body.add(start, start, text)
	}
	return nil
}

// lookup asks the table.
func (v *visit) lookup(text []byte) (*action, error) {
	if err := v.ctx.Err(); err != nil {
		return nil, err
	}
	values, err := v.stage.table.Lookup(v.ctx, asText(text))
	if err != nil {
		return nil, status.Errorf(status.ConfigurationError, "table %s: %w", v.stage.table.Name(), err)
	}
	if len(values) == 0 {
		return nil, nil
	}
	a, err := v.stage.parse(asOctets(table.Join(values)))
	if err != nil {
		return nil, status.Errorf(status.ConfigurationError, "table %s: %w", v.stage.table.Name(), err)
	}
	return &a, nil
}

// do does what an action asks beyond the place it was found at.
func (v *visit) do(a *action, what string, text []byte) error {
	switch a.verb {
	case dunno, ignore:
		return nil
	case hold:
		v.action = mail.Hold
	case discard:
		v.action = mail.Discard
	case reject:
		v.refuse(a)
	case filter:
		v.others = append(v.others, mail.Edit{Route: &a.route})
	case redirect:
		v.others = append(v.others, mail.Edit{Redirect: &a.address})
	case bcc:
		v.others = append(v.others, mail.Edit{Copy: &a.address})
	case pass:
		v.passed = true
	}
	if len(v.others) > maxEnvelopeEdits {
		return status.Errorf(status.Unknown, "more than %d changes of one envelope", maxEnvelopeEdits)
	}
	v.tell(a, what, text)
	if a.verb == reject || a.verb == discard || a.verb == pass {
		return errStop
	}
	return nil
}

// refuse makes REJECT's reply.
func (v *visit) refuse(a *action) {
	v.action, v.reason = mail.Reject, status.ContentRejected
	if a.enhanced[0] == 4 {
		v.reason = status.ContentDeferred
	}
	reply := v.reason.Reply()
	reply.Text = cmp.Or(a.text, reply.Text)
	if a.enhanced[0] != 0 {
		reply.Enhanced = a.enhanced
	}
	v.reply = &reply
}

// tell notes an action for the log.
func (v *visit) tell(a *action, what string, text []byte) {
	if len(v.told) >= maxTold {
		v.untold++
		return
	}
	line := strings.ToValidUTF8(string(text[:min(len(text), 200)]), "?")
	line = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, line)
	said := strings.ToLower(verbNames[a.verb]) + ": " + what + " " + line
	if a.text != "" {
		said += ": " + strings.ToValidUTF8(a.text[:min(len(a.text), 200)], "?")
	}
	v.told = append(v.told, said)
}
