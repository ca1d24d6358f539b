// Package attachments refuses and holds messages by what is attached to them: by
// names, types and content, inside of archives, too.
//
// What comes in: the message of a transaction, and lists of names and types. What
// goes out: one verdict, whose text tells the sender which file. What it
// guarantees: files are known by every name and type a mail program might take
// for theirs; archives are unpacked within bounds of depth, number, size, ratio,
// memory and time, and what cannot be looked at to its end never passes silently:
// unreadable says what becomes of it, and of encrypted files the lists do. What it leaves to others: viruses
// (milters), and what a failure of ours leads to (package policy).
package attachments

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/content/mime"
	"github.com/postern-mail/postern/status"
)

// Name is the stage's.
const Name = "attachments"

// Stage looks at attachments. It implements policy.Inspector.
type Stage struct {
	deny, hold, allow rules
	unreadable        mail.Action
	unreadableReason  status.Reason

	maxDepth, maxFiles  int
	maxOctets, maxRatio int64
}

// rules are what a list names.
type rules struct {
	names, types []pattern
	kinds        []string
}

// The kinds of files that lists can name beside names and types.
var kinds = []string{"encrypted", "macros", "executable", "archive", "disguised", "uuencode", "tnef"}

const typeUuencode = "x-uuencoded"

// New makes the stage of its specification.
func New(spec policy.Spec) (*Stage, error) {
	s := &Stage{unreadable: mail.Hold, maxDepth: 4, maxFiles: 10000, maxOctets: 256 << 20, maxRatio: 1000}
	for name, values := range spec.Args {
		if err := s.attribute(name, values); err != nil {
			return nil, err
		}
	}
	if s.deny.empty() && s.hold.empty() {
		return nil, errors.New(`it looks for nothing; write what is refused, such as deny_names = ["dangerous"]`)
	}
	return s, nil
}

func (r *rules) empty() bool { return len(r.names)+len(r.types)+len(r.kinds) == 0 }

func (s *Stage) attribute(name string, values []string) error {
	verb, what, _ := strings.Cut(name, "_")
	list := map[string]*rules{"deny": &s.deny, "hold": &s.hold, "allow": &s.allow}[verb]
	switch {
	case list != nil && what == "names":
		return list.addNames(name, values)
	case list != nil && what == "types":
		return list.addTypes(name, values)
	case list != nil && what == "" && verb != "allow":
		return list.addKinds(name, values)
	}
	value := strings.Join(values, " ")
	switch name {
	case "on_error":
		return nil
	case "unreadable":
		return s.onUnreadable(value)
	}
	limits := map[string]func(int64){
		"max_depth": func(n int64) { s.maxDepth = int(n) }, "max_files": func(n int64) { s.maxFiles = int(n) },
		"max_octets": func(n int64) { s.maxOctets = n }, "max_ratio": func(n int64) { s.maxRatio = n },
	}
	set, known := limits[name]
	if !known {
		return fmt.Errorf("it does not know the attribute %q; it takes deny_names, deny_types, deny, hold_names, hold_types, hold, allow_names, allow_types, unreadable, max_depth, max_files, max_octets, max_ratio", name)
	}
	n, err := strconv.ParseInt(value, 10, 40)
	if err != nil || n < 1 || n > 1<<36 || n > 20 && name == "max_depth" || n > 1e6 && name == "max_files" {
		return fmt.Errorf("%s is %q; write a number above 0 that is not too large to bound anything", name, value)
	}
	set(n)
	return nil
}

func (s *Stage) onUnreadable(value string) error {
	switch value {
	case "hold":
		s.unreadable = mail.Hold
	case "reject":
		s.unreadable, s.unreadableReason = mail.Reject, status.AttachmentRejected
	case "defer":
		s.unreadable, s.unreadableReason = mail.Reject, status.ContentDeferred
	case "accept":
		s.unreadable = mail.Dunno
	default:
		return fmt.Errorf("unreadable is %q; use hold, reject, defer or accept", value)
	}
	return nil
}

func (r *rules) addNames(attribute string, values []string) error {
	for _, v := range values {
		if v == "dangerous" {
			r.names = append(r.names, dangerous...)
			continue
		}
		if err := r.pattern(attribute, &r.names, v); err != nil {
			return err
		}
	}
	return nil
}

func (r *rules) addTypes(attribute string, values []string) error {
	for _, v := range values {
		if !strings.Contains(v, "/") {
			return fmt.Errorf("%s: %q is no type; write one such as \"application/x-msdownload\" or \"video/*\"", attribute, v)
		}
		if err := r.pattern(attribute, &r.types, v); err != nil {
			return err
		}
	}
	return nil
}

func (r *rules) pattern(attribute string, to *[]pattern, v string) error {
	if _, err := path.Match(v, ""); err != nil || v == "" {
		return fmt.Errorf("%s: %q is no pattern of *, ? and [...]", attribute, v)
	}
	*to = append(*to, pattern(strings.ToLower(v)))
	return nil
}

func (r *rules) addKinds(attribute string, values []string) error {
	for _, v := range values {
		if !slices.Contains(kinds, v) {
			return fmt.Errorf("%s: %q is no kind of file; there are %s", attribute, v, strings.Join(kinds, ", "))
		}
		r.kinds = append(r.kinds, v)
	}
	return nil
}

// Name implements policy.Stage.
func (s *Stage) Name() string { return Name }

// InspectsMessage implements policy.Inspector.
func (s *Stage) InspectsMessage() {}

// finding is what a file was found to be.
type finding struct {
	path, what string
}

// outcome is what the message comes to: the worst that was found.
type outcome struct {
	deny, hold *finding
	unread     *finding // the first
}

// unreadable notes what cannot be looked at.
func (o *outcome) unreadable(path, why string) {
	if o.unread == nil {
		o.unread = &finding{path, why}
	}
}

// Evaluate implements policy.Stage.
func (s *Stage) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	keep, ok := tx.Message.(keeper)
	if !ok {
		return mail.Verdict{}, errors.New("the message keeps nothing")
	}
	var o outcome
	parts, odd, err := find(ctx, tx.Message, s.maxFiles)
	if err != nil && !errors.Is(err, mime.ErrNesting) && !errors.Is(err, errTooMany) {
		return mail.Verdict{}, err
	}
	if err != nil {
		odd = err.Error()
	}
	if odd != "" {
		o.unreadable("", odd)
	}
	w := &search{ctx: ctx, stage: s, keep: keep}
	for i := range parts {
		if err := s.part(w, tx.Message, &parts[i], &o); err != nil {
			return mail.Verdict{}, err
		}
		if o.deny != nil {
			break
		}
	}
	return s.verdict(&o), nil
}

// part looks at one part of the message.
func (s *Stage) part(w *search, m mail.Message, p *part, o *outcome) error {
	name := "attachment"
	for _, n := range p.names {
		name = n
		if shown := plain(n); shown != "" {
			name = shown
		}
	}
	w.found = func(f finding) { s.judge(f.what, f.path, o) }
	for _, n := range p.names {
		w.name(file{name: n, path: name})
	}
	for _, t := range p.types {
		w.kind(file{path: name}, t)
	}
	if p.odd != "" {
		o.unreadable(name, p.odd)
	}
	isolated := slices.ContainsFunc(p.types, func(t string) bool {
		return strings.HasPrefix(t, "message/") || strings.HasPrefix(t, "multipart/")
	})
	if slices.Contains(p.types, "message/partial") {
		o.unreadable(name, "a piece of a message, of which others are elsewhere")
	}
	if isolated && p.severalTypes() {
		o.unreadable(name, "several types")
		isolated = false
	}
	if isolated && p.encoded() {
		// No mail should be like that; some programs decode it all the same.
		o.unreadable(name, "a message that is encoded as a whole")
		return nil
	}
	if isolated {
		return nil
	}
	r, sure, err := p.open(m.Body())
	if err != nil {
		return err
	}
	if !sure {
		o.unreadable(name, "several encodings")
	}
	f := file{path: name, r: r}
	for i, n := range p.names {
		if i == 0 || looksPacked(n) || looksZipped(n) {
			f.name = n
		}
	}
	err = w.look(f)
	var sent unreadable
	if errors.As(err, &sent) {
		o.unreadable(name, sent.Error())
		return nil
	}
	return err
}

// name holds a file's name against the lists.
func (s *search) name(f file) {
	if f.name == "" {
		return
	}
	if disguised(f.name) {
		s.found(finding{f.path, "disguised"})
	}
	for _, name := range readings(f.name) {
		s.stage.names(name, f.path, s.found)
	}
}

// names tells which list has a name.
func (s *Stage) names(name, path string, found func(finding)) {
	matches := func(p pattern) bool { return p.matches(name) }
	switch {
	case slices.ContainsFunc(s.allow.names, matches):
	case slices.ContainsFunc(s.deny.names, matches):
		found(finding{path, "deny"})
	case slices.ContainsFunc(s.hold.names, matches):
		found(finding{path, "hold"})
	}
}

// executables are the types of programs.
var executables = []string{
	"application/vnd.microsoft.portable-executable", "application/x-elf", "application/x-executable", "application/x-sharedlib",
	"application/x-object", "application/x-mach-binary", "application/x-msdownload", "application/x-dosexec", "application/x-ms-shortcut",
	"application/x-ms-installer",
}

// kind holds a file's type against the lists.
func (s *search) kind(f file, kind string) {
	matches := func(p pattern) bool { return p.matches(kind) }
	switch {
	case slices.ContainsFunc(s.stage.allow.types, matches):
		return
	case slices.ContainsFunc(s.stage.deny.types, matches):
		s.found(finding{f.path, "deny"})
	case slices.ContainsFunc(s.stage.hold.types, matches):
		s.found(finding{f.path, "hold"})
	}
	if slices.Contains(executables, kind) {
		s.found(finding{f.path, "executable"})
	}
	if isArchive(kind) {
		s.found(finding{f.path, "archive"})
	}
	switch kind {
	case typeUuencode:
		s.found(finding{f.path, "uuencode"})
	case "application/ms-tnef", "application/vnd.ms-tnef":
		s.found(finding{f.path, "tnef"})
	}
}

// judge settles a finding.
func (s *Stage) judge(what, path string, o *outcome) {
	f := &finding{path, what}
	switch {
	case what == "deny" || slices.Contains(s.deny.kinds, what):
		if o.deny == nil {
			o.deny = f
		}
	case what == "hold" || slices.Contains(s.hold.kinds, what):
		if o.hold == nil {
			o.hold = f
		}
	}
}

// maxShownName bounds a name in a reply.
const maxShownName = 150

// why says in a reply what is wrong with a file.
func (f *finding) why() string {
	name := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || disguised(string(r)) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(f.path, "?"))
	if len(name) > maxShownName {
		name = strings.ToValidUTF8(name[:maxShownName], "") + "..."
	}
	text := map[string]string{
		"deny": "files of this kind are not accepted", "hold": "", "encrypted": "encrypted files are not accepted", "macros": "files with macros are not accepted",
		"executable": "programs are not accepted", "archive": "archives are not accepted", "disguised": "its name hides what it is",
		"uuencode": "files encoded by uuencode are not accepted", "tnef": "files in TNEF (winmail.dat) are not accepted",
	}[f.what]
	if text == "" {
		text = f.what
	}
	if name == "" {
		return text
	}
	return `"` + name + `": ` + text
}

// verdict makes the answer out of what was found.
func (s *Stage) verdict(o *outcome) mail.Verdict {
	refuse := func(reason status.Reason, f *finding) mail.Verdict {
		reply := reason.Reply()
		reply.Text = "Attachment " + f.why()
		return mail.Verdict{Action: mail.Reject, Reason: reason, Reply: &reply, Detail: f.path + ": " + f.what}
	}
	switch {
	case o.deny != nil:
		return refuse(status.AttachmentRejected, o.deny)
	case o.unread != nil && s.unreadable == mail.Reject:
		return refuse(s.unreadableReason, o.unread)
	case o.unread != nil && s.unreadable == mail.Hold:
		return mail.Verdict{Action: mail.Hold, Detail: "not looked into: " + o.unread.why()}
	case o.hold != nil:
		return mail.Verdict{Action: mail.Hold, Detail: "attachment " + o.hold.path + ": " + o.hold.what}
	case o.unread != nil:
		return mail.Verdict{Detail: "not looked into: " + o.unread.why()}
	}
	return mail.Verdict{}
}

// isStore reports whether an error is of our own disk.
func isStore(err error) bool {
	reason := status.Of(err)
	return reason == status.StoreDown || reason == status.MailSystemFull
}
