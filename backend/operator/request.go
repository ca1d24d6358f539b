package operator

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Request is one command. It travels as JSON.
type Request struct {
	// Do is what to do: a key of actions.
	Do string `json:"do"`
	// Users are logins, addresses or names of accounts, or patterns of these with
	// "*" and "?". All is every account of the store.
	Users []string `json:"users,omitempty"`
	All   bool     `json:"all,omitempty"`
	// Program says which messages, in words.
	Program []string `json:"program,omitempty"`
	// Mailboxes are names, or patterns of LIST for list, status and path.
	Mailboxes []string `json:"mailboxes,omitempty"`
	// To is where messages go, or what a mailbox is to be called; ToUser whose
	// that is, where it is another's. Create makes it when it is not there.
	To     string `json:"to,omitempty"`
	ToUser string `json:"to_user,omitempty"`
	Create bool   `json:"create,omitempty"`
	// Flags are those that a message is saved with, or that Change ("add",
	// "remove" or "set") is about.
	Flags  []string `json:"flags,omitempty"`
	Change string   `json:"change,omitempty"`
	// Date is a saved message's INTERNALDATE, zero for the present.
	Date time.Time `json:"date,omitzero"`
	// SpecialUse and Subscribe are for mailboxes that are made.
	SpecialUse string `json:"special_use,omitempty"`
	Subscribe  bool   `json:"subscribe,omitempty"`
	// Fields are what fetch tells, in Format.
	Fields []string `json:"fields,omitempty"`
	Format string   `json:"format,omitempty"`
	// ByMessageID has deduplicate take messages for the same by Message-ID.
	ByMessageID bool `json:"by_message_id,omitempty"`
	// DryRun only tells what would be done.
	DryRun bool `json:"dry_run,omitempty"`
}

// action is what is done in one account.
type action struct {
	do func(*work) error
	// program: messages are searched for. adds: the account may be made, and its
	// limits count.
	program, adds bool
	// mailboxes says how many names it takes: least, and most, 0 for no bound.
	least, most int
	format      string   // by default
	formats     []string // all it has
	fields      []string // of a row; nil when the request says which
}

var (
	rowFormats = []string{"table", "tab", "json", "flow"}

	actions = map[string]action{
		"list":        {do: (*work).list, format: "table", formats: rowFormats, fields: []string{"mailbox", "special_use", "subscribed", "exists"}},
		"status":      {do: (*work).status, format: "table", formats: rowFormats, fields: statusFields},
		"path":        {do: (*work).paths, format: "table", formats: rowFormats, fields: []string{"mailbox", "account-guid", "mailbox-guid"}},
		"create":      {do: (*work).create, adds: true, least: 1},
		"delete":      {do: (*work).remove, least: 1},
		"rename":      {do: (*work).rename, least: 1, most: 1},
		"subscribe":   {do: (*work).subscribe, adds: true, least: 1},
		"unsubscribe": {do: (*work).subscribe, least: 1},
		"search":      {do: (*work).search, program: true, format: "pairs", formats: append([]string{"pairs"}, rowFormats...), fields: []string{"mailbox-guid", "uid"}},
		"fetch":       {do: (*work).fetch, program: true, format: "flow", formats: append([]string{"raw"}, rowFormats...)},
		"expunge":     {do: (*work).expunge, program: true},
		"copy":        {do: (*work).copyOver, program: true},
		"move":        {do: (*work).copyOver, program: true},
		"flags":       {do: (*work).flags, program: true},
		"save":        {do: (*work).save, adds: true, least: 1, most: 1},
		"deduplicate": {do: (*work).deduplicate, program: true},
	}
)

// check returns what is wrong with a request, whoever sent it.
func (q *Request) check() (action, error) {
	a, known := actions[q.Do]
	switch {
	case !known:
		return a, fmt.Errorf("this server knows no mailbox command %q; is it of another version?", q.Do)
	case q.All == (len(q.Users) > 0):
		return a, errors.New("whose mailboxes: -u USER, which may be given again and be a pattern, -F FILE, or -A for all")
	case len(q.Mailboxes) < a.least:
		return a, errors.New("the name of a mailbox is missing")
	case a.most > 0 && len(q.Mailboxes) > a.most:
		return a, errors.New("one mailbox at a time")
	case (q.Do == "copy" || q.Do == "move" || q.Do == "rename") && q.To == "":
		return a, errors.New("where to is missing")
	case q.Do == "flags" && !slices.Contains([]string{"add", "remove", "set"}, q.Change):
		return a, errors.New("flags are to be added, removed or set")
	case q.Do == "flags" && q.Change != "set" && len(q.Flags) == 0:
		return a, errors.New(`which flags is missing, such as '\Seen,$Important'`)
	case q.Do == "fetch" && len(q.Fields) == 0:
		return a, errors.New("fields are missing: " + strings.Join(FieldNames(), ", "))
	}
	if q.Format == "" {
		q.Format = a.format
	}
	if q.Format != "" && !slices.Contains(a.formats, q.Format) {
		return a, fmt.Errorf("no format of %s is called %q; there are %s", q.Do, q.Format, strings.Join(a.formats, ", "))
	}
	return a, nil
}

// summary describes the request for the audit.
func (q *Request) summary() string {
	whose := "all accounts"
	if !q.All {
		whose = few(q.Users)
	}
	words := []string{"mailbox", q.Do}
	if q.DryRun {
		words = append(words, "(dry run)")
	}
	words = append(words, q.Change)
	words = append(words, q.Flags...)
	words = append(words, q.Mailboxes...)
	if q.To != "" {
		words = append(words, "to", q.To, q.ToUser)
	}
	text := strings.Join(slices.DeleteFunc(append(words, q.Program...), func(s string) bool { return s == "" }), " ")
	if len(text) > maxSummary {
		text = strings.ToValidUTF8(text[:maxSummary], "") + "..."
	}
	return text + "; of " + whose
}

const maxSummary = 1000

// few names some of many.
func few(names []string) string {
	const some = 10
	if len(names) <= some {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:some], ", "), len(names)-some)
}
