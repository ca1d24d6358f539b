package imapd

import (
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
	searchOlder // INTERNALDATE at or before the instant
	searchYounger
	searchSavedBefore // day of saving < day
	searchSavedOn
	searchSavedSince
	searchMailbox      // its name fits the pattern in word, or it has the id
	searchSavedOlder   // as searchOlder, of saving
	searchSavedYounger // as searchYounger
	searchModSeq       // at or above number; once prepared, above it
	searchEmailID
	searchThreadID
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
	text   needle
	hint   int // see hinted
	set    numSet
	runs   []uidRange // set, resolved against the mailbox that is searched
	number uint64
	above  uint64 // number, resolved against the mailbox that is searched
	id     mailstore.GUID
	day    int64 // days since 1970
	// seconds is an age; instant, in unix seconds, what is that old.
	seconds int64
	instant int64
	here    bool // the mailbox that is searched fits
}

// searchArgs is a SEARCH, and what SORT, THREAD and ESEARCH have in common with
// it.
type searchArgs struct {
	uid     bool
	returns returnOptions
	key     searchKey // an AND
	modSeq  bool      // MODSEQ is among the keys
	// numbers says that sequence numbers, or "$", are among the keys.
	numbers bool
	loose   bool // FUZZY is among the keys
	// whole says that the result is worth nothing when some messages are left out.
	whole bool
	// looked is at how many messages it looked, in all its mailboxes.
	looked  int
	charset charset
}

type searchParser struct {
	*parser
	args  *searchArgs
	keys  int
	depth int
	fuzzy bool        // the key under way is to be taken loosely
	plain *plainWords // how operators write, nil for clients
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
		return a, sp.program()
	}
}

// program reads the keys to the end.
func (p *searchParser) program() (err error) {
	if p.args.key, err = p.all(); err != nil {
		return err
	}
	return p.args.checkRelevancy(p.args.returns.has(returnRelevancy))
}

// options reads RETURN and CHARSET, in either order of the two RFCs.
func (p *searchParser) options() error {
	for {
		from := p.i
		word, err := p.word()
		switch {
		case err == nil && word == "RETURN" && !p.args.returns.given:
			if err = p.sp(); err == nil {
				err = p.returnOptions(&p.args.returns)
			}
		case err == nil && word == "CHARSET":
			if err = p.sp(); err == nil {
				err = p.charset()
			}
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
	"SENTSINCE":   {op: searchSentSince, cost: costMeta},
	"SAVEDBEFORE": {op: searchSavedBefore}, "SAVEDON": {op: searchSavedOn}, "SAVEDSINCE": {op: searchSavedSince},
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
	if p.plain != nil && (c == '"' || c == '$') {
		return p.plainKey()
	}
	if c == '*' || c == '$' || c >= '0' && c <= '9' {
		p.sequence = p.sequence || c != '$'
		p.args.numbers = true
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
		if p.plain != nil {
			return p.plainDate(k)
		}
		k.day, err = p.searchDay()
		return k, err
	}
	if k, ok := textKeys[word]; ok {
		return p.textKey(k)
	}
	return p.otherKey(word)
}

func (p *searchParser) otherKey(word string) (k searchKey, err error) {
	switch word {
	case "ALL", "OLD", "SAVEDATESUPPORTED": // no message of ours is recent, and each has a date of saving
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
		n, err := p.octets()
		if word == "LARGER" {
			return searchKey{op: searchLarger, number: n}, err
		}
		return searchKey{op: searchSmaller, number: n}, err
	case "OLDER", "YOUNGER":
		return p.withinKey(word)
	case "FUZZY":
		return p.fuzzyKey()
	case "UID":
		if err := p.sp(); err != nil {
			return k, err
		}
		p.args.numbers = p.args.numbers || p.peek() == '$'
		set, err := p.numSet()
		return searchKey{op: searchUID, set: set}, err
	case "UIDAFTER", "UIDBEFORE":
		return p.uidBoundKey(word)
	case "MODSEQ":
		return p.modSeqKey()
	case "EMAILID", "THREADID":
		return p.objectKey(word)
	case "HEADER":
		return p.headerKey()
	case "NOT", "OR":
		return p.joined(word)
	case "MAILBOX":
		if p.plain != nil {
			return p.mailboxKey()
		}
	case "MAILBOXID":
		if p.plain != nil {
			return p.mailboxIDKey()
		}
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
	return p.textKey(k)
}

// withinKey reads OLDER and YOUNGER (RFC 5032).
func (p *searchParser) withinKey(word string) (k searchKey, err error) {
	if err = p.sp(); err != nil {
		return k, err
	}
	if p.plain != nil {
		return p.plainAge(word)
	}
	n, err := p.number()
	if err == nil && n == 0 {
		err = syntax("0 is not an interval")
	}
	if word == "OLDER" {
		return searchKey{op: searchOlder, seconds: int64(n)}, err
	}
	return searchKey{op: searchYounger, seconds: int64(n)}, err
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

// textKey reads the string of a key that looks for text.
func (p *searchParser) textKey(k searchKey) (searchKey, error) {
	if err := p.sp(); err != nil {
		return k, err
	}
	wire, err := p.astring()
	if err != nil {
		return k, err
	}
	text, err := p.args.charset.decode(wire)
	if err != nil {
		return k, err
	}
	if p.fuzzy {
		return p.loosely(k, text)
	}
	k.text = exactly(text)
	return k, nil
}
