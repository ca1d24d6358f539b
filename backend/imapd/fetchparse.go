package imapd

import (
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

const (
	maxFetchItems   = 200
	maxSectionDepth = 100
	maxHeaderFields = 1000
)

// fetchKind is a data item of FETCH.
type fetchKind uint8

const (
	fetchUID fetchKind = iota
	fetchFlagsItem
	fetchEmailID
	fetchThreadID
	fetchInternalDate
	fetchSize
	fetchModSeqItem
	fetchEnvelope
	fetchBodyStructure
	fetchBody
	fetchSection
	fetchPreview
	fetchSaveDate
	fetchBinary
	fetchBinarySize
)

// fetchItem is one data item.
type fetchItem struct {
	kind    fetchKind
	section section
	lazy    bool // of PREVIEW
}

// section is BODY[...], or one of the older RFC822 items.
type section struct {
	path      []int
	specifier imap.PartSpecifier
	fields    []string // of HEADER.FIELDS
	not       bool     // HEADER.FIELDS.NOT
	peek      bool     // leaves \Seen alone
	partial   bool
	offset    int64
	octets    int64
	// response is the item's name in the response, "BODY[TEXT]<0>".
	response string
}

// fromHeader reports whether the message's own header answers the section.
func (sec *section) fromHeader() bool {
	return len(sec.path) == 0 && sec.specifier == imap.PartSpecifierHeader
}

// whole reports whether the section is the message as it is.
func (sec *section) whole() bool {
	return len(sec.path) == 0 && sec.specifier == imap.PartSpecifierNone
}

// wants says what of a Meta the section is answered from.
func (sec *section) wants() mailstore.MetaParts {
	switch {
	case sec.whole():
		return 0
	case sec.fromHeader():
		return mailstore.MetaHeader
	}
	return mailstore.MetaRoot
}

type fetchArgs struct {
	uid          bool
	implied      bool // the first item is UID, which was not named
	set          numSet
	items        []fetchItem
	changedSince uint64
	vanished     bool          // expunged UIDs of the set are asked for, too
	partial      *partialRange // nil for all
	modSeq       bool          // the client showed that it knows CONDSTORE
}

// fetchWords are the items without arguments.
var fetchWords = map[string][]fetchKind{
	"UID":           {fetchUID},
	"FLAGS":         {fetchFlagsItem},
	"INTERNALDATE":  {fetchInternalDate},
	"RFC822.SIZE":   {fetchSize},
	"MODSEQ":        {fetchModSeqItem},
	"ENVELOPE":      {fetchEnvelope},
	"BODYSTRUCTURE": {fetchBodyStructure},
	"EMAILID":       {fetchEmailID},
	"THREADID":      {fetchThreadID},
	"SAVEDATE":      {fetchSaveDate},
}

// fetchMacros stand alone, outside a list (RFC 3501 section 6.4.5).
var fetchMacros = map[string][]fetchKind{
	"FAST": {fetchFlagsItem, fetchInternalDate, fetchSize},
	"ALL":  {fetchFlagsItem, fetchInternalDate, fetchSize, fetchEnvelope},
	"FULL": {fetchFlagsItem, fetchInternalDate, fetchSize, fetchEnvelope, fetchBody},
}

// fetchSections are the older names of sections.
var fetchSections = map[string]section{
	"RFC822":        {response: "RFC822"},
	"RFC822.HEADER": {response: "RFC822.HEADER", specifier: imap.PartSpecifierHeader, peek: true},
	"RFC822.TEXT":   {response: "RFC822.TEXT", specifier: imap.PartSpecifierText},
}

func parseFetch(uid bool) func(*parser) (fetchArgs, error) {
	return func(p *parser) (a fetchArgs, err error) {
		a.uid = uid
		if a.set, err = parseSet(p); err != nil {
			return a, err
		}
		if err = p.sp(); err != nil {
			return a, err
		}
		if p.peek() == '(' {
			err = p.list(func() error { return p.fetchItem(&a, false) })
		} else {
			err = p.fetchItem(&a, true)
		}
		if err != nil {
			return a, err
		}
		if len(a.items) == 0 {
			return a, syntax("expected a data item")
		}
		if p.take(' ') && p.i < len(p.b) {
			if err = p.list(func() error { return p.fetchModifier(&a) }); err != nil {
				return a, err
			}
		}
		if a.vanished && (!a.uid || a.changedSince == 0) { // RFC 7162 section 3.2.6
			return a, syntax("VANISHED needs UID FETCH and CHANGEDSINCE")
		}
		a.complete()
		return a, nil
	}
}

func (a *fetchArgs) has(kind fetchKind) bool {
	return slices.ContainsFunc(a.items, func(it fetchItem) bool { return it.kind == kind })
}

// complete adds the items that are implied.
func (a *fetchArgs) complete() {
	if a.uid && !a.has(fetchUID) {
		a.items, a.implied = slices.Insert(a.items, 0, fetchItem{kind: fetchUID}), true
	}
	a.modSeq = a.modSeq || a.has(fetchModSeqItem)
}

func (p *parser) fetchModifier(a *fetchArgs) error {
	word, err := p.word()
	switch {
	case err == nil && word == "VANISHED":
		a.vanished = true
		return nil
	case err == nil && word == "PARTIAL" && a.uid && a.partial == nil:
		if err := p.sp(); err != nil {
			return err
		}
		r, err := p.partialRange()
		a.partial = &r
		return err
	case err != nil || word != "CHANGEDSINCE":
		return orSyntax(err, "unknown fetch modifier")
	}
	if err := p.sp(); err != nil {
		return err
	}
	a.modSeq = true
	a.changedSince, err = p.modSeqValue()
	return err
}

// fetchItem reads one data item, or where it may stand a macro.
func (p *parser) fetchItem(a *fetchArgs, macro bool) error {
	if len(a.items) >= maxFetchItems {
		return syntax("too many data items")
	}
	name := p.itemName()
	switch name {
	case "PREVIEW":
		return p.previewItem(a)
	case "BINARY", "BINARY.PEEK", "BINARY.SIZE":
		return p.binaryItem(a, name)
	}
	if kinds, ok := fetchWords[name]; ok {
		a.add(kinds)
		return nil
	}
	if kinds, ok := fetchMacros[name]; ok && macro {
		a.add(kinds)
		return nil
	}
	if sec, ok := fetchSections[name]; ok {
		a.items = append(a.items, fetchItem{kind: fetchSection, section: sec})
		return nil
	}
	if name != "BODY" && name != "BODY.PEEK" {
		return syntax("unknown data item")
	}
	if p.peek() != '[' {
		if name != "BODY" {
			return syntax("expected a section")
		}
		a.add([]fetchKind{fetchBody})
		return nil
	}
	sec, err := p.section()
	sec.peek = name == "BODY.PEEK"
	a.items = append(a.items, fetchItem{kind: fetchSection, section: sec})
	return err
}

func (a *fetchArgs) add(kinds []fetchKind) {
	for _, k := range kinds {
		a.items = append(a.items, fetchItem{kind: k})
	}
}

// itemName reads letters, digits and dots in capitals: "BODY[" ends it.
func (p *parser) itemName() string {
	start := p.i
	for p.i < len(p.b) && (classes[p.b[p.i]]&classAtom != 0 && p.b[p.i] != '[') {
		p.i++
	}
	return strings.ToUpper(string(p.b[start:p.i]))
}

// section reads "[...]<...>" and composes the name of the response.
func (p *parser) section() (sec section, err error) {
	p.i++ // the bracket
	if err := p.sectionPath(&sec); err != nil {
		return sec, err
	}
	if err := p.sectionText(&sec); err != nil {
		return sec, err
	}
	if err := p.want(']'); err != nil {
		return sec, err
	}
	if p.peek() == '<' {
		if err := p.partial(&sec); err != nil {
			return sec, err
		}
	}
	sec.response = sec.name("BODY")
	return sec, nil
}

func (p *parser) sectionPath(sec *section) error {
	for c := p.peek(); c >= '1' && c <= '9'; c = p.peek() {
		n, err := p.number()
		if err != nil {
			return err
		}
		if sec.path = append(sec.path, int(n)); len(sec.path) > maxSectionDepth {
			return syntax("section is too deep")
		}
		if !p.take('.') {
			return nil
		}
		if c := p.peek(); c == ']' {
			return syntax("invalid section")
		}
	}
	return nil
}

func (p *parser) sectionText(sec *section) error {
	if p.peek() == ']' {
		return nil
	}
	start := p.i
	for p.i < len(p.b) && (p.b[p.i] == '.' || p.b[p.i]|0x20 >= 'a' && p.b[p.i]|0x20 <= 'z') {
		p.i++
	}
	switch word := strings.ToUpper(string(p.b[start:p.i])); word {
	case "HEADER":
		sec.specifier = imap.PartSpecifierHeader
	case "TEXT":
		sec.specifier = imap.PartSpecifierText
	case "MIME":
		if len(sec.path) == 0 {
			return syntax("MIME needs a part")
		}
		sec.specifier = imap.PartSpecifierMIME
	case "HEADER.FIELDS", "HEADER.FIELDS.NOT":
		sec.specifier = imap.PartSpecifierHeader
		sec.not = word == "HEADER.FIELDS.NOT"
		return p.headerFields(sec)
	default:
		return syntax("invalid section")
	}
	return nil
}

func (p *parser) headerFields(sec *section) error {
	if err := p.sp(); err != nil {
		return err
	}
	err := p.list(func() error {
		name, err := p.astring()
		if sec.fields = append(sec.fields, name); len(sec.fields) > maxHeaderFields {
			return syntax("too many fields")
		}
		return err
	})
	if err == nil && len(sec.fields) == 0 {
		return syntax("expected field names")
	}
	return err
}

func (p *parser) partial(sec *section) error {
	p.i++ // the bracket
	offset, err := p.number64()
	if err != nil {
		return err
	}
	if err := p.want('.'); err != nil {
		return err
	}
	octets, err := p.number64()
	if err != nil {
		return err
	}
	if octets == 0 {
		return syntax("partial of no octets")
	}
	sec.partial, sec.offset, sec.octets = true, int64(offset), int64(octets)
	return p.want('>')
}

// name composes the section of an item as it stands in the response.
func (sec *section) name(item string) string {
	b := append([]byte(item), '[')
	for i, n := range sec.path {
		if i > 0 {
			b = append(b, '.')
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	if len(sec.path) > 0 && sec.specifier != imap.PartSpecifierNone {
		b = append(b, '.')
	}
	b = append(b, sec.specifier...)
	if len(sec.fields) > 0 {
		b = append(b, ".FIELDS"...)
		if sec.not {
			b = append(b, ".NOT"...)
		}
		for i, f := range sec.fields {
			if b = append(b, ' '); i == 0 {
				b = append(b, '(')
			}
			b = appendAstring(b, f)
		}
		b = append(b, ')')
	}
	b = append(b, ']')
	if sec.partial {
		b = append(b, '<')
		b = strconv.AppendInt(b, sec.offset, 10)
		b = append(b, '>')
	}
	return string(b)
}
