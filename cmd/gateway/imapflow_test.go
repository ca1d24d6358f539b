package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// TestImapflow has a client of web mail and of programs that follow mailboxes,
// which knows CONDSTORE, QRESYNC, IMAP4rev2 and COMPRESS, do all it can.
func TestImapflow(t *testing.T) {
	t.Parallel()
	node := testenv.Program(t, "node")
	modules := testenv.NodeModules(t, "testdata/clients/package-lock.json")
	s := newClientSite(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "testdata/clients/imapflow.js",
		s.port("IMAP"), s.port("IMAPS"), filepath.Join(s.Dir, "cert.pem"), "bob", ldif.Password("bob"))
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("imapflow: %v\n%s", err, out)
	}
}
