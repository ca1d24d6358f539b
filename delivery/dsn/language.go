package dsn

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// fallback is the language that has every text.
const fallback = "en"

// maxLanguages bounds what is read of a message's languages.
const maxLanguages = 16

// macros are tags that mean another one here: Chinese without a script, and
// where it is written in the simplified one.
var macros = map[string]string{
	"zh": "zh-hans", "zh-cn": "zh-hans", "zh-sg": "zh-hans", "zh-my": "zh-hans",
}

// languages returns those of the report: what is configured for the reader's
// domain; else what the message tells of its author; else the configured ones.
// Notices speak as configured.
func (p *report) languages() []string {
	if list, ok := p.languagesOf(p.to.Domain); ok {
		return list
	}
	if !p.cfg.IgnoreSender && p.Notice == mail.NoticeNone {
		for _, tag := range p.original.languages {
			if l, ok := p.texts.lookup(tag); ok {
				return []string{l}
			}
		}
	}
	return p.cfg.Languages
}

// languagesOf looks a domain up, then the domains above it.
func (c *Composer) languagesOf(d mail.Domain) ([]string, bool) {
	name := strings.ToLower(string(d))
	if list, ok := c.cfg.LanguagesOf[name]; ok {
		return list, true
	}
	for {
		_, parent, found := strings.Cut(name, ".")
		if !found {
			return nil, false
		}
		if list, ok := c.cfg.LanguagesOf["."+parent]; ok {
			return list, true
		}
		name = parent
	}
}

// lookup finds the language we have for a tag (RFC 4647 section 3.4): the tag
// itself, or what is left of it without its last subtags.
func (t texts) lookup(tag string) (string, bool) {
	tag = strings.ToLower(tag)
	for tag != "" {
		if _, ok := t[tag]; ok {
			return tag, true
		}
		if macro, ok := macros[tag]; ok {
			_, ok = t[macro]
			return macro, ok
		}
		cut := strings.LastIndexByte(tag, '-')
		if cut < 0 {
			return "", false
		}
		// Traditional Chinese must not become simplified.
		if tag = tag[:cut]; tag == "zh" {
			return "", false
		}
	}
	return "", false
}

// checkLanguages replaces the configured tags by those of texts.
func (c *Composer) checkLanguages() error {
	var errs []error
	check := func(list []string) []string {
		known := make([]string, 0, len(list))
		for _, tag := range list {
			l, ok := c.texts.lookup(tag)
			if !ok {
				errs = append(errs, fmt.Errorf("there are no texts in the language %q; there are some in %s", tag, strings.Join(c.Languages(), ", ")))
			}
			known = append(known, l)
		}
		return known
	}
	c.cfg.Languages = check(c.cfg.Languages)
	of := make(map[string][]string, len(c.cfg.LanguagesOf))
	for _, domain := range slices.Sorted(maps.Keys(c.cfg.LanguagesOf)) {
		of[strings.ToLower(domain)] = check(c.cfg.LanguagesOf[domain])
	}
	c.cfg.LanguagesOf = of
	return errors.Join(errs...)
}

// Languages lists the languages there are texts in, as tags.
func (c *Composer) Languages() []string {
	var tags []string
	for _, l := range c.texts {
		tags = append(tags, l.tag)
	}
	slices.Sort(tags)
	return tags
}

// acceptLanguage reads the tags of an Accept-Language or Content-Language field
// (RFC 3282), best first; what it cannot read is left out.
func acceptLanguage(value string) []string {
	type choice struct {
		tag     string
		quality float64
	}
	var choices []choice
	for item := range strings.SplitSeq(value, ",") {
		tag, parameter, _ := strings.Cut(item, ";")
		c := choice{strings.TrimSpace(tag), 1}
		if name, q, ok := strings.Cut(parameter, "="); ok && strings.EqualFold(strings.TrimSpace(name), "q") {
			if v, err := strconv.ParseFloat(strings.TrimSpace(q), 64); err == nil {
				c.quality = v
			}
		}
		if isTag(c.tag) && c.quality > 0 && c.quality <= 1 {
			choices = append(choices, c)
		}
		if len(choices) == maxLanguages {
			break
		}
	}
	slices.SortStableFunc(choices, func(a, b choice) int { return cmp.Compare(b.quality, a.quality) })
	tags := make([]string, len(choices))
	for i, c := range choices {
		tags[i] = c.tag
	}
	return tags
}

// isTag reports whether s is shaped as a language tag (RFC 5646).
func isTag(s string) bool {
	if len(s) < 2 || len(s) > 35 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if c != '-' && (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
