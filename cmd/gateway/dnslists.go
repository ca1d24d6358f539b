package main

import (
	"fmt"
	"io"
	"time"

	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/dnsbl"
)

// dnsListStages makes the restrictions on lists in the DNS. All listeners ask
// the same lists.
func (b *builder) dnsListStages() map[string]func(policy.Spec) (policy.Stage, error) {
	if b.lists == nil {
		room, err := b.file.Gateway.DNSListsRoom()
		if b.failed("dns_list", err) {
			return nil
		}
		lists, err := dnsbl.New(room, b.resolver, b.listMemory(), b.log.Named("policy"), b.metrics)
		if b.failed("dns_list", err) {
			return nil
		}
		b.lists = lists
		b.task("DNS lists", lists.Run)
	}
	return b.lists.Stages(b.addresses())
}

// listMemory returns what is known of lists over reloads; commands that only
// ask begin with nothing.
func (b *builder) listMemory() *dnsbl.Memory {
	if b.policyState == nil || b.policyState.lists == nil {
		return dnsbl.NewMemory()
	}
	return b.policyState.lists
}

// tellLists writes how the lists in the DNS do.
func tellLists(out io.Writer, lists *dnsbl.Lists) {
	if lists == nil || len(lists.States()) == 0 {
		return
	}
	fmt.Fprintln(out, "\nDNS LIST\tSTATE")
	for _, st := range lists.States() {
		text := "asked"
		if st.Down {
			text = fmt.Sprintf("LEFT OUT since %s: %s", st.Since.Format(time.DateTime), st.Reason)
		}
		fmt.Fprintf(out, "%s\t%s\n", st.List, text)
	}
}
