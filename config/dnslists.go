package config

import (
	"errors"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/dnsbl"
)

// errKeyName is what is wrong with a key that cannot stand in a name.
var errKeyName = errors.New("the first line is no key that can stand in a domain name")

// DNSList is what holds for one list in the DNS.
type DNSList struct {
	block
	Domain   string        `conf:"domain,label"`
	KeyFile  string        `conf:"key_file" doc:"File whose first line is the key of a paid list: it goes before the domain into what is asked, and into no reply and no log."`
	Timeout  time.Duration `conf:"timeout" default:"5s" doc:"Longest wait for an answer."`
	Reply    string        `conf:"reply" doc:"What a listed client reads, with macros such as $rbl_what; docs/dns-lists.md. Empty: default_rbl_reply."`
	Code     int           `conf:"code" default:"554" doc:"Reply code for listed clients, $rbl_code: Postfix's maps_rbl_reject_code."`
	Refusals string        `conf:"refusals" default:"127.255.255.[0..255]" doc:"Answers by which the list refuses to answer us, such as 127.0.0.1 for lists that say it so. They are no listings, and the list is left out."`
	Test     bool          `conf:"test" default:"true" doc:"Test from time to time whether the list has an entry for 127.0.0.2 and none for 127.0.0.1, and a list of names none for the name invalid (RFC 5782)."`
	TestName string        `conf:"test_name" doc:"Name that a list of names has an entry for, such as test or dbltest.com; it is tested, too."`
}

// dnsLists checks the settings of DNS lists.
func (c checker) dnsLists(g *Gateway) {
	seen := make(map[string]bool)
	for _, l := range g.DNSLists {
		site, err := dnsbl.ParseSite(l.Domain)
		if err != nil || site.Filter != nil || site.Weighted {
			c.errorf(l.at, "Wrong label", "%q is not the domain of a list, such as zen.spamhaus.org; filters and weights stand where the list is asked.", l.Domain)
		}
		if seen[site.Domain] {
			c.errorf(l.at, "Contradiction", "The list %s is described twice.", site.Domain)
		}
		seen[site.Domain] = true
		if _, err := dnsbl.ParseFilter(l.Refusals); err != nil {
			c.errorf(l.rangeOf("refusals"), "Wrong value", "%v.", err)
		}
		if l.Code < 400 || l.Code > 599 {
			c.errorf(l.rangeOf("code"), "Wrong value", "code is 4NN or 5NN, not %d.", l.Code)
		}
		if l.Timeout <= 0 || l.Timeout > time.Minute {
			c.errorf(l.rangeOf("timeout"), "Wrong value", "timeout is more than nothing and at most a minute, not %s.", formatDuration(l.Timeout))
		}
		if l.KeyFile == "" {
			continue
		}
		if _, err := l.key(); err != nil {
			c.errorf(l.rangeOf("key_file"), "Cannot be used", "%v.", err)
		}
	}
	if _, err := g.inertLists(); err != nil {
		c.errorf(g.at, "Wrong value", "%v.", err)
	}
}

// key reads the key of a paid list.
func (l *DNSList) key() (string, error) {
	text, err := os.ReadFile(l.KeyFile)
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	key := strings.TrimSpace(first)
	if _, err := mail.ParseDomain(key); err != nil {
		return "", &os.PathError{Op: "read", Path: l.KeyFile, Err: errKeyName}
	}
	return key, nil
}

// DNSListsRoom returns what holds for lists in the DNS. Keys are read from
// their files.
func (g *Gateway) DNSListsRoom() (dnsbl.Config, error) {
	room := dnsbl.Config{Reply: g.RBLReply}
	for _, l := range g.DNSLists {
		refusals, err := dnsbl.ParseFilter(l.Refusals)
		if err != nil {
			return room, err
		}
		cfg := dnsbl.ListConfig{
			Domain: strings.ToLower(strings.TrimSuffix(l.Domain, ".")), Timeout: l.Timeout, Reply: l.Reply, Code: l.Code,
			Refusals: refusals, Untested: !l.Test, TestName: strings.ToLower(l.TestName),
		}
		if l.KeyFile != "" {
			if cfg.Key, err = l.key(); err != nil {
				return room, err
			}
		}
		room.Lists = append(room.Lists, cfg)
	}
	return room, nil
}

// inertLists are lists that say what is wrong with restrictions, and are never
// asked.
func (g *Gateway) inertLists() (*dnsbl.Lists, error) {
	room, err := g.DNSListsRoom()
	if err != nil {
		return nil, nil // told where it stands
	}
	return dnsbl.New(room, nil, dnsbl.NewMemory(), hclog.NewNullLogger(), nil)
}

// dnsListStages are the restrictions on lists in the DNS, which are asked
// nothing.
func (c checker) dnsListStages(g *Gateway) map[string]func(policy.Spec) (policy.Stage, error) {
	lists, err := g.inertLists()
	if err != nil || lists == nil {
		lists, _ = dnsbl.New(dnsbl.Config{}, nil, dnsbl.NewMemory(), hclog.NewNullLogger(), nil) // the default has no mistakes
	}
	return lists.Stages(nobody{})
}
