package config

import (
	"strconv"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
)

// usualMaxPriority is what people may ask for who are known to a listener that
// says nothing of it: enough to come before the rest, and something is left
// for the operator.
const usualMaxPriority = 4

// noPriority is the max_priority of a listener that takes none.
const noPriority = "none"

// priorities says who may ask for a priority at a listener, and for which.
func (l *SMTPListener) priorities() (smtp.PriorityPolicy, int8) {
	switch {
	case l.MaxPriority == noPriority, l.MaxPriority == "" && l.Mode == ModeMX:
		return smtp.PriorityNever, 0
	case l.MaxPriority == "":
		return smtp.PriorityForLogins, usualMaxPriority
	}
	n, _ := strconv.Atoi(l.MaxPriority) // checked before
	if l.Mode == ModeMX {
		return smtp.PriorityForAll, int8(n)
	}
	return smtp.PriorityForLogins, int8(n)
}

// priorities checks a listener's priorities.
func (c checker) priorities(l *SMTPListener) {
	if l.Priority < mail.LowestPriority || l.Priority > mail.HighestPriority {
		c.errorf(l.rangeOf("priority"), "Wrong value", "A priority is a number from %d to %d, not %d.", mail.LowestPriority, mail.HighestPriority, l.Priority)
	}
	if l.MaxPriority == "" || l.MaxPriority == noPriority {
		return
	}
	if n, err := strconv.Atoi(l.MaxPriority); err != nil || n < mail.LowestPriority || n > mail.HighestPriority {
		c.errorf(l.rangeOf("max_priority"), "Wrong value", "The highest priority is a number from %d to %d or %q, not %q.", mail.LowestPriority, mail.HighestPriority, noPriority, l.MaxPriority)
	}
}
