package policy

import "github.com/postern-mail/postern/mail"

// Placed is a Stage that needs to know what the client says at some step of the
// dialogue: in a list that is asked before, it is a mistake.
type Placed interface {
	Stage
	Needs() mail.Phase
}

// Starter is a Stage that can begin its work when a client connects, so that
// its answer is there by the time it is asked for.
type Starter interface {
	Stage
	// Start is told of each client that connects and is not one of ours. It does
	// nothing that takes time, and keeps nothing of tx.
	Start(tx *mail.Transaction)
}

// start tells the stages of a client that has connected.
func (c *Chain) start(tx *mail.Transaction) {
	if tx.Phase != mail.PhaseConnect || len(c.starters) == 0 || c.trusted(tx).Action == mail.Permit {
		return
	}
	for _, s := range c.starters {
		s.Start(tx)
	}
}

// placed takes note of what a stage of another room wants of its place.
func (b *builder) placed(at scope, stage Stage, spec Spec) (needs mail.Phase) {
	if p, ok := stage.(Placed); ok {
		needs = p.Needs()
		b.checkPhase(at, spec.Name, needs, spec.Pos)
	}
	// Tables are read again while sessions go on: what their lines name is asked
	// when its turn comes.
	if s, ok := stage.(Starter); ok && !at.inTable {
		b.chain.starters = append(b.chain.starters, s)
	}
	return needs
}
