package directory

import (
	"strconv"
	"strings"
)

// Matching rules of extensible matches that Match knows.
const (
	ruleBitAnd     = "1.2.840.113556.1.4.803" // AD: all bits set
	ruleBitOr      = "1.2.840.113556.1.4.804" // AD: any bit set
	ruleExact      = "2.5.13.5"
	ruleExactName  = "caseexactmatch"
	ruleIgnore     = "2.5.13.2"
	ruleIgnoreName = "caseignorematch"
)

// dnAttributes hold DNs; their values compare as such. Without a server's
// schema at hand, the list names those that mail directories search by.
var dnAttributes = map[string]bool{
	"member": true, "uniquemember": true, "memberof": true, "owner": true, "manager": true,
	"roleoccupant": true, "seealso": true, "managedby": true, "publicdelegates": true, "altrecipient": true,
}

// neverMatched are attributes whose content a search must not reveal.
var neverMatched = map[string]bool{"userpassword": true, "unicodepwd": true, "krbprincipalkey": true}

func (f conjunction) matches(e Entry) bool {
	for _, part := range f {
		if !part.matches(e) {
			return false
		}
	}
	return true
}

func (f disjunction) matches(e Entry) bool {
	for _, part := range f {
		if part.matches(e) {
			return true
		}
	}
	return false
}

func (f negation) matches(e Entry) bool { return !f.filter.matches(e) }

func (f presence) matches(e Entry) bool { return len(e.Values(f.attribute)) > 0 }

func (f comparison) matches(e Entry) bool {
	key := attributeKey(f.attribute)
	if neverMatched[key] {
		return false
	}
	for _, have := range e.Values(key) {
		if f.matchesValue(key, have) {
			return true
		}
	}
	return false
}

func (f comparison) matchesValue(key, have string) bool {
	want := f.value.literal
	switch f.operator {
	case greaterOrEqual:
		return compareOrdered(have, want) >= 0
	case lessOrEqual:
		return compareOrdered(have, want) <= 0
	case extensible:
		return matchesRule(strings.ToLower(f.rule), have, want)
	default:
		return EqualValues(key, have, want)
	}
}

// EqualValues reports whether two values of an attribute are the same by the
// rules of Match.
func EqualValues(attribute, a, b string) bool {
	if a == b {
		return true
	}
	if dnAttributes[attributeKey(attribute)] {
		return DN(a).Key() == DN(b).Key()
	}
	return foldValue(a) == foldValue(b)
}

// IndexKey returns the text under which equal values of an attribute are found
// in an index.
func IndexKey(attribute, v string) string {
	if dnAttributes[attributeKey(attribute)] {
		return DN(v).Key()
	}
	return foldValue(v)
}

func matchesRule(rule, have, want string) bool {
	switch rule {
	case ruleBitAnd, ruleBitOr:
		h, errHave := strconv.ParseInt(have, 10, 64)
		w, errWant := strconv.ParseInt(want, 10, 64)
		if errHave != nil || errWant != nil {
			return false
		}
		if rule == ruleBitAnd {
			return h&w == w
		}
		return h&w != 0
	case ruleExact, ruleExactName:
		return have == want
	default:
		return foldValue(have) == foldValue(want)
	}
}

// compareOrdered compares integers as integers and anything else as folded
// text, which orders GeneralizedTime as time.
func compareOrdered(a, b string) int {
	x, errX := strconv.ParseInt(a, 10, 64)
	y, errY := strconv.ParseInt(b, 10, 64)
	if errX != nil || errY != nil {
		return strings.Compare(foldValue(a), foldValue(b))
	}
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func (f substrings) matches(e Entry) bool {
	key := attributeKey(f.attribute)
	if neverMatched[key] {
		return false
	}
	for _, have := range e.Values(key) {
		if f.matchesText(foldValue(have)) {
			return true
		}
	}
	return false
}

func (f substrings) matchesText(text string) bool {
	text, ok := strings.CutPrefix(text, strings.ToLower(f.initial.literal))
	if !ok {
		return false
	}
	if text, ok = strings.CutSuffix(text, strings.ToLower(f.final.literal)); !ok {
		return false
	}
	for _, v := range f.any {
		if _, text, ok = strings.Cut(text, strings.ToLower(v.literal)); !ok {
			return false
		}
	}
	return true
}

func (f conjunction) unsupported() string {
	for _, part := range f {
		if rule := part.unsupported(); rule != "" {
			return rule
		}
	}
	return ""
}

func (f disjunction) unsupported() string { return conjunction(f).unsupported() }
func (f negation) unsupported() string    { return f.filter.unsupported() }
func (f presence) unsupported() string    { return "" }
func (f substrings) unsupported() string  { return "" }

func (f comparison) unsupported() string {
	if f.operator != extensible {
		return ""
	}
	if f.attribute == "" || f.dnToo {
		return "extensible match without an attribute or on the DN"
	}
	switch strings.ToLower(f.rule) {
	case "", ruleBitAnd, ruleBitOr, ruleExact, ruleExactName, ruleIgnore, ruleIgnoreName:
		return ""
	}
	return f.rule
}

// foldValue prepares text for comparison as caseIgnoreMatch does: lower case,
// no spaces at the ends, one for many inside (RFC 4518 section 2.6.1).
func foldValue(s string) string {
	s = strings.ToLower(strings.Trim(s, " "))
	if strings.Contains(s, "  ") {
		s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == ' ' }), " ")
	}
	return s
}
