package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// tableLines is how long each access table is.
	tableLines = 10_000
	// perCorporateConnection keeps a client below the errors for which servers
	// slow it down.
	perCorporateConnection = 20
)

// corporate measures a gateway with the restrictions of a company: of ten
// messages it refuses three at RCPT, one for its sender, one for a recipient
// in a table, one for a recipient that nobody has. Seven pass header_checks and
// arrive at a server that speaks LMTP, the driver.
func corporate(size, connections int) measure {
	texts := sync.OnceValue(func() [][]byte { return messages(size) })
	return func(ctx context.Context, s *system, o options) (f figures, err error) {
		var due atomic.Int64
		before := s.out.taken.Load()
		due.Store(before)
		d := drive{
			door: s.smtp, connections: connections, each: perCorporateConnection, until: time.Now().Add(o.load), texts: texts(),
			recipient: func(id int64) string { return userAddress(int(id) % users) },
			accepted:  func(int64) { due.Add(1) },
			refused:   corporateRefusal,
		}
		err = f.whole(ctx, s, d, relayedPerSecond, func(ctx context.Context) error { return s.out.wait(ctx, due.Load()) })
		if err != nil {
			return f, err
		}
		f.set(ratePerSecond, f.values[acceptedPerSecond])
		f.set(acceptedPerSecond, 0)
		f.set(relayedPerSecond, f.values[relayedPerSecond]*float64(due.Load()-before)/float64(f.messages))
		return f, nil
	}
}

// corporateRefusal says which of a connection's messages are refused.
func corporateRefusal(n int) (sender, recipient string, ok bool) {
	switch n % 10 {
	case 2:
		return "user7-7@bad.example", userAddress(n), true
	case 5:
		return "sender@remote.example", "left7-7@" + domain, true
	case 8:
		return "sender@remote.example", "nobody@" + domain, true
	default:
		return "", "", false
	}
}

// corporateTables are the access tables with an entry a line. The first is one
// of networks.
func corporateTables() (networks string, others map[string]string) {
	table := func(entry string) string {
		var b strings.Builder
		for n := range tableLines {
			fmt.Fprintf(&b, entry+" REJECT not here\n", n/256, n%256)
		}
		return b.String()
	}
	return table("203.%d.%d.0/24"), map[string]string{
		"hosts": table("host%d-%d.bad.example"), "senders": table("user%d-%d@bad.example"), "recipients": table("left%d-%d@" + domain),
	}
}

// corporateHeaders are 20 patterns, none of which a message of ours matches.
func corporateHeaders() string {
	var b strings.Builder
	for n := range 5 {
		fmt.Fprintf(&b, "/^Subject:.*\\bwin(ner|ning)? prize %d\\b/ REJECT no prizes\n", n)
		fmt.Fprintf(&b, "/^X-Mailer: *bulk(er)? v%d\\./ REJECT no bulk mail\n", n)
		fmt.Fprintf(&b, "/^(From|Reply-To):.*@([a-z0-9-]+\\.)?spam%d\\.example/ REJECT not from there\n", n)
		fmt.Fprintf(&b, "/^Content-(Type|Disposition):.*name=\"?[^\"]*\\.(exe|scr|com%d)\"?/ REJECT no programs\n", n)
	}
	return b.String()
}

// corporatePostfix is added to postfixConfig: folder, kind of the indexed
// tables, kind of the patterns.
const corporatePostfix = `smtpd_helo_required = yes
smtpd_client_restrictions = permit_mynetworks, check_client_access cidr:%[1]s/nets, check_client_access %[2]s:%[1]s/hosts
smtpd_helo_restrictions = permit_mynetworks, reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname, check_helo_access %[2]s:%[1]s/hosts
smtpd_sender_restrictions = permit_mynetworks, reject_non_fqdn_sender, reject_unlisted_sender, check_sender_access %[2]s:%[1]s/senders, check_sender_access %[2]s:%[1]s/hosts
smtpd_recipient_restrictions = reject_non_fqdn_recipient, reject_unauth_destination, check_recipient_access %[2]s:%[1]s/recipients, check_recipient_access %[2]s:%[1]s/hosts, reject_unlisted_recipient
smtpd_data_restrictions = reject_unauth_pipelining, reject_multi_recipient_bounce
header_checks = %[3]s:%[1]s/headers
`

// corporatePostern is the same in our words, for the place of the mark in
// posternConfig.
const corporatePostern = `
  policy "client" {
    permit_mynetworks {}
    check_client_access { table = "cidr:nets" }
    check_client_access { table = "hosts" }
  }
  policy "helo" {
    permit_mynetworks {}
    reject_invalid_helo_hostname {}
    reject_non_fqdn_helo_hostname {}
    check_helo_access { table = "hosts" }
  }
  policy "sender" {
    permit_mynetworks {}
    reject_non_fqdn_sender {}
    reject_unlisted_sender {}
    check_sender_access { table = "senders" }
    check_sender_access { table = "hosts" }
  }
  policy "relay" {
    reject_unauth_destination {}
  }
  policy "recipient" {
    reject_non_fqdn_recipient {}
    reject_unauth_destination {}
    check_recipient_access { table = "recipients" }
    check_recipient_access { table = "hosts" }
    reject_unlisted_recipient {}
  }
  policy "data" {
    reject_unauth_pipelining {}
    reject_multi_recipient_bounce {}
  }
  policy "content" {
    header_checks { table = "pcre:headers" }
  }
`

// startCorporate starts Postern and, where it is installed, Postfix, both with
// mailboxes at a server of the driver's.
func startCorporate(ctx context.Context, o options, dir string) (systems []*system, missing string, err error) {
	binary, err := filepath.Abs(o.postern)
	if err != nil {
		return nil, "", err
	}
	if err := writeCertificate(dir); err != nil {
		return nil, "", err
	}
	networks, tables := corporateTables()
	ours, err := startCorporatePostern(ctx, binary, filepath.Join(dir, "postern"), networks, tables)
	if err != nil {
		return nil, "", err
	}
	systems = append(systems, ours)
	if o.alone {
		return systems, "", nil
	}
	if missing = peersMissing(); missing != "" {
		fmt.Fprintln(os.Stderr, missing)
		return systems, missing, nil
	}
	peer, err := startCorporatePostfix(ctx, filepath.Join(dir, "postfix"), networks, tables)
	if err != nil {
		return systems, "", err
	}
	return append(systems, peer), "", nil
}

func startCorporatePostern(ctx context.Context, binary, dir, networks string, tables map[string]string) (*system, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for name, text := range tables {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	for name, text := range map[string]string{"nets": networks, "headers": corporateHeaders()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return startPosternWith(ctx, binary, dir, func(text, out string) string {
		text = strings.Replace(text, `["unix:`+dir+`/lmtp.sock"] }`, `["`+out+`"] }`, 1)
		return strings.Replace(text, "gateway {\n", "gateway {"+corporatePostern, 1)
	})
}

func startCorporatePostfix(ctx context.Context, dir, networks string, tables map[string]string) (*system, error) {
	out, err := startReceiver()
	if err != nil {
		return nil, err
	}
	etc := filepath.Join(dir, "etc")
	p, err := startPostfix(ctx, dir, postfixSetup{
		certificates: filepath.Dir(dir), lmtp: "inet:" + out.address(), out: out.address(),
		more:    fmt.Sprintf(corporatePostfix, etc, mapType(), plugIn("pcre", "regexp")),
		indexed: tables, files: map[string]string{"nets": networks, "headers": corporateHeaders()},
	})
	if err != nil {
		out.close()
		return nil, err
	}
	return &system{
		name: "Postfix", dir: dir, smtp: smtpDoor(p.smtp), out: out,
		roots: func() []int { return []int{p.master} }, stop: p.stop,
	}, nil
}
