package imapd

import (
	"slices"

	"github.com/postern-mail/postern/backend/imapd/sortkey"
)

// sortBy is what SORT compares messages by.
type sortBy uint8

const (
	sortArrival sortBy = iota
	sortCc
	sortDate
	sortFrom
	sortSize
	sortSubject
	sortTo
	sortDisplayFrom
	sortDisplayTo
	sortRelevancy // of no message more than of another: all have the same score
)

var sortWords = map[string]sortBy{
	"ARRIVAL": sortArrival, "CC": sortCc, "DATE": sortDate, "FROM": sortFrom, "SIZE": sortSize, "SUBJECT": sortSubject,
	"TO": sortTo, "DISPLAYFROM": sortDisplayFrom, "DISPLAYTO": sortDisplayTo, "RELEVANCY": sortRelevancy,
}

// sortFields are the criteria that compare strings.
var sortFields = map[sortBy]sortkey.Field{
	sortCc: sortkey.Cc, sortFrom: sortkey.From, sortSubject: sortkey.Subject, sortTo: sortkey.To,
	sortDisplayFrom: sortkey.DisplayFrom, sortDisplayTo: sortkey.DisplayTo,
}

// sortCriterion is one of the criteria of SORT.
type sortCriterion struct {
	by      sortBy
	reverse bool
}

const maxSortCriteria = 30

// sortArgs is a SORT: a search and an order.
type sortArgs struct {
	searchArgs
	criteria []sortCriterion
}

// parseSort reads SORT (RFC 5256) with the options of ESORT (RFC 5267).
func parseSort(uid bool) func(*parser) (sortArgs, error) {
	return func(p *parser) (sortArgs, error) {
		a := sortArgs{searchArgs: searchArgs{uid: uid, whole: true}}
		sp := &searchParser{parser: p, args: &a.searchArgs}
		if err := p.sp(); err != nil {
			return a, err
		}
		if p.peek() != '(' {
			if word, err := p.word(); err != nil || word != "RETURN" {
				return a, syntax("expected RETURN or sort criteria")
			}
			if err := p.sp(); err != nil {
				return a, err
			}
			if err := p.returnOptions(&a.returns); err != nil {
				return a, err
			}
			if err := p.sp(); err != nil {
				return a, err
			}
		}
		if err := p.sortCriteria(&a); err != nil {
			return a, err
		}
		if err := sp.charsetAndProgram(); err != nil {
			return a, err
		}
		return a, a.checkRelevancy(slices.ContainsFunc(a.criteria, func(c sortCriterion) bool { return c.by == sortRelevancy }))
	}
}

// charsetAndProgram reads what SORT and THREAD have behind their own arguments.
func (p *searchParser) charsetAndProgram() error {
	if err := p.sp(); err != nil {
		return err
	}
	if err := p.charset(); err != nil {
		return err
	}
	if err := p.sp(); err != nil {
		return err
	}
	return p.program()
}

func (p *parser) sortCriteria(a *sortArgs) error {
	err := p.list(func() error {
		word, err := p.word()
		c := sortCriterion{}
		if err == nil && word == "REVERSE" {
			c.reverse = true
			if err = p.sp(); err == nil {
				word, err = p.word()
			}
		}
		if err != nil {
			return err
		}
		by, known := sortWords[word]
		if !known {
			return syntax("unknown sort criterion")
		}
		c.by = by
		if a.criteria = append(a.criteria, c); len(a.criteria) > maxSortCriteria {
			return syntax("too many sort criteria")
		}
		return nil
	})
	if err == nil && len(a.criteria) == 0 {
		err = syntax("expected a sort criterion")
	}
	return err
}

// threadArgs is a THREAD: a search and an algorithm.
type threadArgs struct {
	searchArgs
	references bool // REFERENCES, else ORDEREDSUBJECT
}

func parseThread(uid bool) func(*parser) (threadArgs, error) {
	return func(p *parser) (threadArgs, error) {
		a := threadArgs{searchArgs: searchArgs{uid: uid, whole: true}}
		if err := p.sp(); err != nil {
			return a, err
		}
		switch word, err := p.word(); {
		case err == nil && word == "REFERENCES":
			a.references = true
		case err != nil || word != "ORDEREDSUBJECT":
			return a, orSyntax(err, "unknown threading algorithm")
		}
		return a, (&searchParser{parser: p, args: &a.searchArgs}).charsetAndProgram()
	}
}
