package main

import (
	"context"
	"sync"

	"github.com/hashicorp/go-hclog"

	authnss "github.com/postern-mail/postern/authn/nss"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/nss"
)

// systemUsers makes a directory of the machine's own users, whom the helper
// process is asked for.
func (b *builder) systemUsers(cfg *config.Directory, log hclog.Logger) (directory.Searcher, error) {
	client, err := authnss.New(cfg.UserHelper(), log)
	if err != nil {
		return nil, err
	}
	source, err := nss.New(cfg.Users(b.domainsOf(cfg.Name)), helperUsers{client})
	if err != nil {
		return nil, err
	}
	b.task("users helper of directory "+cfg.Name, client.Run)
	b.helpers = append(b.helpers, b.tasks[len(b.tasks)-1])
	return source, nil
}

// runHelpers runs, for a command, what its questions to directories need of
// processes beside it, until stop is called.
func (g *generation) runHelpers(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, helper := range g.helpers {
		running.Go(func() { _ = helper.run(ctx) }) // what fails is told by the questions
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// helperUsers implements nss.Users over the helper.
type helperUsers struct{ client *authnss.Client }

// User implements nss.Users.
func (h helperUsers) User(ctx context.Context, name string) (nss.User, bool, error) {
	a, err := h.client.Ask(ctx, authnss.User, name)
	return nss.User{Name: a.Name, UID: a.UID, GID: a.GID, Comment: a.Comment, Home: a.Home}, a.Outcome == authnss.Found, err
}

// Group implements nss.Users.
func (h helperUsers) Group(ctx context.Context, name string) (nss.Group, bool, error) {
	a, err := h.client.Ask(ctx, authnss.Group, name)
	return nss.Group{Name: a.Name, GID: a.GID, Members: a.Members}, a.Outcome == authnss.Found, err
}
