package policy

import (
	"context"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Class is a list of restrictions under a name of the operator's, which then
// is a restriction itself, in lists, in other classes and in tables (Postfix's
// smtpd_restriction_classes). What it says of itself in replies is that of the
// list it is asked in.
type Class struct {
	Name  string
	Specs []Spec
	Pos   Pos
}

// class is a Class as it is evaluated. It is complete once Build returned;
// tables that are read while it is made refer to it by its address.
type class struct {
	name  string
	specs []Spec
	pos   Pos
	items []item
	needs mail.Phase // the earliest place in the dialogue where all can answer
	state classState
}

type classState uint8

const (
	classWritten classState = iota
	classBegun              // being made: what names it from within is a circle
	classMade
)

// Name returns the class's name.
func (c *class) Name() string { return c.name }

// Evaluate has nothing to say by itself: the chain asks branch.
func (c *class) Evaluate(context.Context, *mail.Transaction) (mail.Verdict, error) {
	return mail.Verdict{}, nil
}

func (c *class) branch(context.Context, *mail.Transaction) (mail.Verdict, []item, error) {
	return mail.Verdict{}, c.items, nil
}

// makeClasses makes the classes of the configuration, so that lists and tables
// can name them.
func (b *builder) makeClasses(classes []Class) {
	b.classes = make(map[string]*class, len(classes))
	for _, c := range classes {
		name := strings.ToLower(c.Name)
		switch {
		case !isRestrictionName(name):
			b.mistake(c.Pos, fmt.Sprintf("%q is no name for a restriction class", c.Name), "use letters, digits, underscores and hyphens")
		case b.isTaken(name):
			b.mistake(c.Pos, fmt.Sprintf("%q is a restriction already, or what an access table says", c.Name), "give the class another name")
		case b.classes[name] != nil:
			b.mistake(c.Pos, fmt.Sprintf("the restriction class %q is defined twice", c.Name), "put all restrictions into one")
		default:
			b.classes[name] = &class{name: name, specs: c.Specs, pos: c.Pos}
		}
	}
	for _, c := range classes { // in the order of the file, for the mistakes
		if made := b.classes[strings.ToLower(c.Name)]; made != nil {
			b.makeClass(made)
		}
	}
}

func (b *builder) makeClass(c *class) {
	if c.state != classWritten {
		return
	}
	c.state = classBegun
	c.items = b.items(scope{list: classList, about: aboutList}, c.specs)
	for i := range c.items {
		c.needs = max(c.needs, c.items[i].needs)
	}
	c.state = classMade
}

// classList stands for whatever list a class is asked in.
const classList List = ""

// ofClass makes the restriction that a class is. One that leads back to itself
// through tables only shows when it is asked; how deep that goes is bounded.
func (b *builder) ofClass(at scope, c *class, spec Spec) item {
	b.checkArgs(spec, nil)
	if !at.inTable {
		if c.state == classBegun {
			b.mistake(spec.Pos, fmt.Sprintf("the restriction class %s leads back to itself", c.name), "take it out of itself")
			return item{}
		}
		b.makeClass(c)
	}
	b.checkPhase(at, c.name, c.needs, spec.Pos)
	return item{stage: c, about: at.about, needs: c.needs, onError: b.onError(spec)}
}

// isTaken reports whether a name means something else in lists or tables.
func (b *builder) isTaken(name string) bool {
	_, ours := b.known[canonicalName(name)]
	_, foreign := b.chain.deps.Stages[name]
	return ours || foreign || isAction(name) || elsewhere[name] != "" || name == "warn_if_reject"
}

func isRestrictionName(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}
