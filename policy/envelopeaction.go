package policy

import (
	"fmt"

	"github.com/postern-mail/postern/mail"
)

// The actions of access tables that change where a message goes. They concern
// the message as a whole, whoever of its recipients they were found for.

// envelopeActions reads what stands behind each.
var envelopeActions = map[string]func(b *builder, text string) (mail.Edit, string, error){
	"FILTER":   parseFilter,
	"REDIRECT": parseRedirect,
	"BCC":      parseCopy,
}

func parseFilter(b *builder, text string) (mail.Edit, string, error) {
	if b.chain.deps.Routes == nil {
		return mail.Edit{}, "", fmt.Errorf("no target of delivery is known here")
	}
	route, err := b.chain.deps.Routes(text)
	if err == nil && route == (mail.Route{}) {
		err = fmt.Errorf("%q names neither a target nor a next hop", text)
	}
	return mail.Edit{Route: &route}, `write "FILTER target:next_hop", with the name of a target block`, err
}

func parseRedirect(_ *builder, text string) (mail.Edit, string, error) {
	address, err := parseMailbox(text)
	return mail.Edit{Redirect: &address}, `write "REDIRECT user@example.com"`, err
}

func parseCopy(_ *builder, text string) (mail.Edit, string, error) {
	address, err := parseMailbox(text)
	return mail.Edit{Copy: &address}, `write "BCC user@example.com"`, err
}

func parseMailbox(text string) (mail.Address, error) {
	address, err := mail.ParseAddress(text)
	if err == nil && address.Domain == "" {
		err = fmt.Errorf("%q has no domain", text)
	}
	return address, err
}

// parseEnvelopeAction makes the action word of the text behind it.
func parseEnvelopeAction(b *builder, pos Pos, word, text string) (*action, *Mistake) {
	if text == "" {
		return nil, &Mistake{pos, word + " says not where to", `write "` + word + ` DESTINATION"`}
	}
	edit, remedy, err := envelopeActions[word](b, text)
	if err != nil {
		return nil, &Mistake{pos, fmt.Sprintf("%s: %v", word, err), remedy}
	}
	return &action{edit: &edit, text: "triggers " + word + " " + text}, nil
}
