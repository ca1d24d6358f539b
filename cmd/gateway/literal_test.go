package main

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// TestOwnAddressLiterals: mail to an address of this machine is for the people
// of its first domain; to another it is a stranger's.
func TestOwnAddressLiterals(t *testing.T) {
	t.Parallel()
	g := generationOf(t, strings.Replace(twoCompanies, `"127.0.0.1:0"`, `":0"`, 1), map[string]string{"corp.ldif": "", "partner.ldif": ""})
	for domain, want := range map[mail.Domain]policy.DomainClass{
		"[127.0.0.1]": policy.Local, "[IPv6:::1]": policy.Local, "[192.0.2.1]": policy.Other, "[IPv6:2001:db8::1]": policy.Other,
		"[general:x]": policy.Other, "corp.example": policy.Local,
	} {
		if got := g.book.Class(domain); got != want {
			t.Errorf("%s: %v, want %v", domain, got, want)
		}
	}
	if g.book.domain("[127.0.0.1]") != g.book.home || g.book.home == "" {
		t.Errorf("stands for %q", g.book.domain("[127.0.0.1]"))
	}
}
