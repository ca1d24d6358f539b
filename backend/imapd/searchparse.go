package imapd

import (
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
)

const (
	maxSearchDepth = 50
	maxSearchKeys  = 2000
)

// searchOp is a search key, or a way to join some.
type searchOp uint8

const (
	searchAll searchOp = iota
	searchNone
	searchAnd
	searchOr
	searchNot
	searchFlag
	searchKeyword
	searchSequence
	searchUID
	searchBefore // INTERNALDATE's day < day
	searchOn
	searchSince
	searchLarger
	searchSmaller
	searchModSeq
	searchSentBefore
	searchSentOn
	searchSentSince
	searchHeader
	searchBody
	searchText
)

// cost orders keys: what the index answers, what Meta answers, what the body
// answers.
type cost uint8

const (
	costIndex cost = iota
	costMeta
	costBody
)

// searchKey is a node of the criteria.
type searchKey struct {
	op     searchOp
	cost   cost
	kids   []searchKey
	flag   mailstore.Flags
	word   string // keyword, or field name
	text   []byte // folded
	set    numSet
	spans  []span // set, resolved against the View searched
	number uint64
	day    int64 // days since 1970
}

// searchReturn is what RETURN asks for (RFC 4731).
type searchReturn uint8

const (
	returnMin searchReturn = 1 << iota
	returnMax
	returnAll
	returnCount
)

type searchArgs struct {
	uid      bool
	extended bool // RETURN was given
	want     searchReturn
	key      searchKey // an AND
	modSeq   bool      // MODSEQ is among the keys
}

type searchParser struct {
	*parser
	args  *searchArgs
	keys  int
	depth int
}

func parseSearch(uid bool) func(*parser) (searchArgs, error) {
	return func(p *parser) (searchArgs, error) {
		a := searchArgs{uid: uid}
		sp := &searchParser{parser: p, args: &a}
		if err := p.sp(); err != nil {
			return a, err
		}
		if err := sp.options(); err != nil {
			return a, err
		}
		var err error
		a.key, err = sp.all()
		return a, err
	}
}

// options reads RETURN and CHARSET, in either order of the two RFCs.
func (p *searchParser) options() error {
	for {
		from := p.i
		word, err := p.word()
		switch {
		case err == nil && word == "RETURN" && !p.args.extended:
			err = p.returns()
		case err == nil && word == "CHARSET":
			err = p.charset()
		default:
			p.i = from
			return nil
		}
		if err != nil {
			return err
		}
		if err := p.sp(); err != nil {
			return err
		}
	}
}

func (p *searchParser) returns() error {
	p.args.extended = true
	if err := p.sp(); err != nil {
		return err
	}
	err := p.list(func() error {
		word, err := p.word()
		if err != nil {
			return err
		}
		want, ok := map[string]searchReturn{"MIN": returnMin, "MAX": returnMax, "ALL": returnAll, "COUNT": returnCount}[word]
		if !ok {
			return syntax("unknown return option")
		}
		p.args.want |= want
		return nil
	})
	if p.args.want == 0 {
		p.args.want = returnAll
	}
	return err
}

func (p *searchParser) charset() error {
	if err := p.sp(); err != nil {
		return err
	}
	name, err := p.astring()
	if err != nil {
		return err
	}
	if !strings.EqualFold(name, "UTF-8") && !strings.EqualFold(name, "US-ASCII") {
		return refuse("BADCHARSET (US-ASCII UTF-8)", "Charset is not supported")
	}
	return nil
}

// all reads keys until the end or a closing parenthesis: all must match.
func (p *searchParser) all() (searchKey, error) {
	and := searchKey{op: searchAnd}
	for {
		k, err := p.key()
		if err != nil {
			return and, err
		}
		and.kids = append(and.kids, k)
		and.cost = max(and.cost, k.cost)
		if p.peek() == ')' || !p.take(' ') || p.i == len(p.b) {
			return and, nil
		}
	}
}

// flagKeys are the keys for system flags: with the flag, and without it.
var flagKeys = map[string]struct {
	flag mailstore.Flags
	not  bool
}{
	"ANSWERED": {mailstore.FlagAnswered, false}, "UNANSWERED": {mailstore.FlagAnswered, true},
	"DELETED": {mailstore.FlagDeleted, false}, "UNDELETED": {mailstore.FlagDeleted, true},
	"DRAFT": {mailstore.FlagDraft, false}, "UNDRAFT": {mailstore.FlagDraft, true},
	"FLAGGED": {mailstore.FlagFlagged, false}, "UNFLAGGED": {mailstore.FlagFlagged, true},
	"SEEN": {mailstore.FlagSeen, false}, "UNSEEN": {mailstore.FlagSeen, true},
}

var dateKeys = map[string]searchKey{
	"BEFORE": {op: searchBefore}, "ON": {op: searchOn}, "SINCE": {op: searchSince},
	"SENTBEFORE": {op: searchSentBefore, cost: costMeta}, "SENTON": {op: searchSentOn, cost: costMeta},
	"SENTSINCE": {op: searchSentSince, cost: costMeta},
}

// textKeys have one string; the field names are those of the header.
var textKeys = map[string]searchKey{
	"BCC": {op: searchHeader, cost: costMeta, word: "Bcc"}, "CC": {op: searchHeader, cost: costMeta, word: "Cc"},
	"FROM": {op: searchHeader, cost: costMeta, word: "From"}, "TO": {op: searchHeader, cost: costMeta, word: "To"},
	"SUBJECT": {op: searchHeader, cost: costMeta, word: "Subject"},
	"BODY":    {op: searchBody, cost: costBody}, "TEXT": {op: searchText, cost: costBody},
}

// key reads one search key (RFC 3501 section 6.4.4).
func (p *searchParser) key() (searchKey, error) {
	if p.keys++; p.keys > maxSearchKeys {
		return searchKey{}, syntax("too many search keys")
	}
	c := p.peek()
	if c == '(' {
		return p.nested()
	}
	if c == '*' || c >= '0' && c <= '9' {
		p.sequence = true
		set, err := p.numSet()
		return searchKey{op: searchSequence, set: set}, err
	}
	word, err := p.word()
	if err != nil {
		return searchKey{}, syntax("expected a search key")
	}
	if f, ok := flagKeys[word]; ok {
		return negate(searchKey{op: searchFlag, flag: f.flag}, f.not), nil
	}
	if k, ok := dateKeys[word]; ok {
		k.day, err = p.searchDay()
		return k, err
	}
	if k, ok := textKeys[word]; ok {
		k.text, err = p.searchText()
		return k, err
	}
	return p.otherKey(word)
}

func (p *searchParser) otherKey(word string) (k searchKey, err error) {
	switch word {
	case "ALL", "OLD": // no message of ours is recent
		return searchKey{op: searchAll}, nil
	case "RECENT", "NEW":
		return searchKey{op: searchNone}, nil
	case "KEYWORD", "UNKEYWORD":
		if err := p.sp(); err != nil {
			return k, err
		}
		name, err := p.atom()
		return negate(searchKey{op: searchKeyword, word: name}, word[0] == 'U'), err
	case "LARGER", "SMALLER":
		if err := p.sp(); err != nil {
			return k, err
		}
		n, err := p.number64()
		if word == "LARGER" {
			return searchKey{op: searchLarger, number: n}, err
		}
		return searchKey{op: searchSmaller, number: n}, err
	case "UID":
		if err := p.sp(); err != nil {
			return k, err
		}
		set, err := p.numSet()
		return searchKey{op: searchUID, set: set}, err
	case "MODSEQ":
		return p.modSeqKey()
	case "HEADER":
		return p.headerKey()
	case "NOT", "OR":
		return p.joined(word)
	}
	return k, syntax("unknown search key")
}

func negate(k searchKey, not bool) searchKey {
	if !not {
		return k
	}
	return searchKey{op: searchNot, cost: k.cost, kids: []searchKey{k}}
}

// nested reads keys in parentheses.
func (p *searchParser) nested() (k searchKey, err error) {
	if p.depth++; p.depth > maxSearchDepth {
		return k, syntax("search is nested too deeply")
	}
	defer func() { p.depth-- }()
	p.i++ // the parenthesis
	if k, err = p.all(); err != nil {
		return k, err
	}
	return k, p.want(')')
}

func (p *searchParser) joined(word string) (k searchKey, err error) {
	if p.depth++; p.depth > maxSearchDepth {
		return k, syntax("search is nested too deeply")
	}
	defer func() { p.depth-- }()
	k.op = searchNot
	n := 1
	if word == "OR" {
		k.op, n = searchOr, 2
	}
	for range n {
		if err := p.sp(); err != nil {
			return k, err
		}
		kid, err := p.key()
		if err != nil {
			return k, err
		}
		k.kids = append(k.kids, kid)
		k.cost = max(k.cost, kid.cost)
	}
	return k, nil
}

func (p *searchParser) headerKey() (k searchKey, err error) {
	if err = p.sp(); err != nil {
		return k, err
	}
	k = searchKey{op: searchHeader, cost: costMeta}
	if k.word, err = p.astring(); err != nil {
		return k, err
	}
	k.text, err = p.searchText()
	return k, err
}

// modSeqKey reads MODSEQ (RFC 7162 section 3.1.5). Mod-sequences are kept per
// message, so the optional entry only has to be well formed.
func (p *searchParser) modSeqKey() (k searchKey, err error) {
	p.args.modSeq = true
	if err = p.sp(); err != nil {
		return k, err
	}
	if p.peek() == '"' {
		if _, err = p.quoted(); err != nil {
			return k, err
		}
		if err = p.sp(); err != nil {
			return k, err
		}
		if word, err := p.word(); err != nil || word != "ALL" && word != "PRIV" && word != "SHARED" {
			return k, orSyntax(err, "invalid entry type")
		}
		if err = p.sp(); err != nil {
			return k, err
		}
	}
	n, err := p.number64()
	return searchKey{op: searchModSeq, number: n}, err
}

const secondsPerDay = int64(24 * time.Hour / time.Second)

// dayOf numbers the days since 1970; days before it are negative.
func dayOf(unix int64) int64 {
	if unix < 0 {
		return (unix+1)/secondsPerDay - 1
	}
	return unix / secondsPerDay
}

func (p *searchParser) searchDay() (int64, error) {
	if err := p.sp(); err != nil {
		return 0, err
	}
	t, err := p.date()
	return dayOf(t.Unix()), err
}

func (p *searchParser) searchText() ([]byte, error) {
	if err := p.sp(); err != nil {
		return nil, err
	}
	s, err := p.astring()
	return appendFolded(nil, []byte(s)), err
}
