package status

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

//go:generate env UPDATE_GOLDEN=1 go test -count=1 -run TestDocumentIsCurrent .

// document writes docs/replies.md from the table.
func document() []byte {
	var b bytes.Buffer
	b.WriteString(`# Replies

Generated from the table in ` + "`status/table.go`" + ` by ` + "`make golden`" + `; do not edit.

Every reply has a reason, and each reason one row: what SMTP and LMTP say, and the IMAP response code where
there is one. The reason's name stands in log, audit and metrics. Some replies carry another text, such as
` + "`<address>: Recipient address rejected: User unknown`" + ` from a restriction, the words of an access table, or
a next hop's own reply. 4xx is transient: the client tries again. An outage of ours is never 5xx.

| reason | code | enhanced | text | IMAP |
|---|---|---|---|---|
`)
	for _, r := range Reasons() {
		reply := r.Reply()
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s |\n",
			r, reply.Code, reply.EnhancedString(), strings.NewReplacer("<", "&lt;", ">", "&gt;", "|", "\\|").Replace(reply.Text), r.IMAPCode())
	}
	return b.Bytes()
}

func TestDocumentIsCurrent(t *testing.T) {
	t.Parallel()
	const file = "../docs/replies.md"
	want := document()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/replies.md is not what the table says: run make golden")
	}
}
