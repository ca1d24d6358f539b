package rspamd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// answer is what rspamd says of a message.
type answer struct {
	Skipped  bool              `json:"is_skipped"`
	Score    float64           `json:"score"`
	Required float64           `json:"required_score"`
	Action   string            `json:"action"`
	Symbols  map[string]symbol `json:"symbols"`
	Messages messages          `json:"messages"`
	Subject  string            `json:"subject"`
	DKIM     texts             `json:"dkim-signature"`
	Milter   edits             `json:"milter"`
	Error    string            `json:"error"`
}

type symbol struct {
	Score   float64 `json:"score"`
	Options texts   `json:"options"`
}

// edits is what rspamd wants milters to change.
type edits struct {
	Add        map[string]added   `json:"add_headers"`
	Remove     map[string]numbers `json:"remove_headers"`
	ChangeFrom string             `json:"change_from"`
	AddRcpt    texts              `json:"add_rcpt"`
	DelRcpt    texts              `json:"del_rcpt"`
	SpamHeader string             `json:"spam_header"`
	NoAction   bool               `json:"no_action"`
	Reject     string             `json:"reject"`
}

// Bounds of an answer.
const (
	maxAnswer = 4 << 20
	maxEdits  = 500
)

// parseAnswer reads an answer, and refuses one that decides nothing.
func parseAnswer(data []byte) (*answer, error) {
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	if a.Error != "" {
		return nil, fmt.Errorf("answer: error %.200q", a.Error)
	}
	if a.Action == "" {
		return nil, fmt.Errorf("answer without an action")
	}
	if n := a.edits(); n > maxEdits {
		return nil, fmt.Errorf("answer with %d edits", n)
	}
	return &a, nil
}

// edits counts what the answer wants changed.
func (a *answer) edits() int {
	n := len(a.Milter.AddRcpt) + len(a.Milter.DelRcpt) + len(a.DKIM)
	for _, values := range a.Milter.Add {
		n += len(values)
	}
	for _, which := range a.Milter.Remove {
		n += len(which)
	}
	return n
}

// names lists the symbols in order, with scores, and cuts a long list.
func (a *answer) names() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(a.Symbols)) {
		if b.Len() > 500 {
			b.WriteString(" ...")
			break
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s(%s)", token(name), number(a.Symbols[name].Score))
	}
	return b.String()
}

// token is a name without what would end it, or a field.
func token(s string) string {
	s = strings.Map(func(c rune) rune {
		if c <= ' ' || c >= 0x7f || c == '(' || c == ')' {
			return '_'
		}
		return c
	}, s)
	return s[:min(len(s), 100)]
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', 2, 64) }

// texts is a text or a list of texts.
type texts []string

// UnmarshalJSON implements json.Unmarshaler. What is neither is left out.
func (t *texts) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*t = texts{one}
		return nil
	}
	var many []json.RawMessage
	if json.Unmarshal(data, &many) != nil {
		return nil
	}
	for _, raw := range many {
		if json.Unmarshal(raw, &one) == nil {
			*t = append(*t, one)
		}
	}
	return nil
}

// messages are texts by name; modules put other things there, too.
type messages map[string]string

// UnmarshalJSON implements json.Unmarshaler.
func (m *messages) UnmarshalJSON(data []byte) error {
	var all map[string]json.RawMessage
	if json.Unmarshal(data, &all) != nil {
		return nil // older versions have a list here, of nothing for us
	}
	*m = make(messages)
	for name, raw := range all {
		var text string
		if json.Unmarshal(raw, &text) == nil {
			(*m)[name] = text
		}
	}
	return nil
}

// added are the values of fields of one name, each with its place from the top;
// -1 is the end.
type added []addedField

type addedField struct {
	value string
	order int
}

// UnmarshalJSON implements json.Unmarshaler: "value", {"value", "order"}, or a
// list of these.
func (a *added) UnmarshalJSON(data []byte) error {
	var list []json.RawMessage
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		if err := json.Unmarshal(data, &list); err != nil {
			return err
		}
	} else {
		list = []json.RawMessage{data}
	}
	for _, raw := range list {
		f := addedField{order: -1}
		if json.Unmarshal(raw, &f.value) != nil {
			var full struct {
				Value string `json:"value"`
				Order *int   `json:"order"`
			}
			if err := json.Unmarshal(raw, &full); err != nil {
				return err
			}
			if f.value = full.Value; full.Order != nil {
				f.order = *full.Order
			}
		}
		*a = append(*a, f)
	}
	return nil
}

// numbers is one number or a list: 0 all fields of a name, n the nth, -n the
// nth from the end.
type numbers []int

// UnmarshalJSON implements json.Unmarshaler.
func (n *numbers) UnmarshalJSON(data []byte) error {
	var one int
	if json.Unmarshal(data, &one) == nil {
		*n = numbers{one}
		return nil
	}
	return json.Unmarshal(data, (*[]int)(n))
}
