package policy

import (
	"context"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Actor is a Stage of another room whose answers are actions, as access tables
// have them: it is asked by Action instead of Evaluate.
type Actor interface {
	Stage
	// Action returns the action. One that cannot be read is an error of the
	// stage.
	Action(ctx context.Context, tx *mail.Transaction) (string, error)
}

// acting is an Actor at its place in a list.
type acting struct {
	Actor
	about subject
	read  reader
	pos   Pos
}

func (b *builder) acting(at scope, actor Actor, pos Pos) *acting {
	return &acting{actor, at.about, reader{&builder{chain: b.chain, known: b.known, classes: b.classes}, at}, pos}
}

// Input tells what the Actor looks at, where it says so.
func (a *acting) Input(tx *mail.Transaction) string {
	if i, ok := a.Actor.(interface {
		Input(tx *mail.Transaction) string
	}); ok {
		return i.Input(tx)
	}
	return ""
}

func (a *acting) branch(ctx context.Context, tx *mail.Transaction) (mail.Verdict, []item, error) {
	text, err := a.Action(ctx, tx)
	if err != nil {
		return mail.Verdict{}, nil, err
	}
	found, mistake := a.read.action(a.pos, text)
	if mistake != nil {
		return mail.Verdict{}, nil, status.Errorf(status.ConfigurationError, "the action %.200q: %w", text, mistake)
	}
	return found.answer(a.about.in(ctx), tx), found.nested, nil
}

// CheckAction tells what is wrong with an action that names no restriction.
func CheckAction(text string) error {
	word, rest := firstWord(text)
	var mistake *Mistake
	switch {
	case isDigits(word):
		_, mistake = parseCode(Pos{}, word, rest)
	case strings.EqualFold(word, actionPrepend):
		_, mistake = parsePrepend(Pos{}, rest)
	case !isAction(word):
		mistake = &Mistake{Problem: fmt.Sprintf("%q is no action", text), Remedy: "write one of an access table, such as DUNNO or 450 and a text"}
	}
	if mistake != nil {
		return mistake
	}
	return nil
}
