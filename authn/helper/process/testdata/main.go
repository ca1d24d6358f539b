// Command testdata is the helper as cmd/gateway runs it, small enough for tests
// to build.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn/helper/process"
)

func main() {
	if len(os.Args) < 2 || os.Args[1] != "auth-helper" {
		fmt.Fprintln(os.Stderr, "usage: auth-helper ...")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := process.Main(ctx, os.Args[2:], hclog.New(&hclog.LoggerOptions{Level: hclog.Error})); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
