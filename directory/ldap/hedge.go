package ldap

import (
	"context"
	"errors"
	"fmt"
	"time"

	goldap "github.com/go-ldap/ldap/v3"
)

// errOvertaken ends an attempt because another server answered first.
var errOvertaken = errors.New("another server answered first")

// second is what came of the second try of a search.
type second[T any] struct {
	value T
	err   error
}

// hedged is try, and a try of the next candidate besides when the first one
// leaves the question unanswered for longer than it mostly does. The first
// answer counts and the other attempt ends. Binds are never sent twice: two
// wrong passwords bring an account nearer to being locked.
func hedged[T any](ctx context.Context, c *Client, s *server, p purpose, left *candidates, op func(*goldap.Conn) (T, error)) (T, error) {
	delay, ok := c.hedgeDelay(s)
	if p != searches || !ok {
		return try(ctx, c, s, p, op)
	}
	c.budget.earn()
	firstCtx, endFirst := context.WithCancelCause(ctx)
	defer endFirst(nil)
	secondCtx, endSecond := context.WithCancelCause(ctx)
	defer endSecond(nil)
	done := make(chan second[T], 1)
	timer := time.AfterFunc(delay, func() {
		other := left.spare()
		if other == nil || !c.budget.spend() {
			left.giveBack(other)
			done <- second[T]{err: errNoSecond}
			return
		}
		other.hedged.Add(1)
		value, err := try(secondCtx, c, other, p, op)
		if isAnswer(err) {
			endFirst(errOvertaken)
		} else {
			err = fmt.Errorf("%s: %w", other.uri, err)
		}
		done <- second[T]{value, err}
	})
	value, err := try(firstCtx, c, s, p, op)
	if timer.Stop() {
		return value, err
	}
	if isAnswer(err) {
		endSecond(errOvertaken)
		<-done
		return value, err
	}
	other := <-done
	if isAnswer(other.err) {
		return other.value, other.err
	}
	if !errors.Is(other.err, errNoSecond) {
		err = errors.Join(err, other.err)
	}
	return value, err
}

var errNoSecond = errors.New("no second try")

// hedgeDelay returns when a search goes to a second server; false for never.
func (c *Client) hedgeDelay(s *server) (time.Duration, bool) {
	if c.cfg.Hedge != 0 {
		return c.cfg.Hedge, c.cfg.Hedge > 0
	}
	delay, ok := s.latency.hedgeDelay()
	if !ok {
		delay = c.cfg.Timeout / 4
	}
	return min(delay, c.cfg.Timeout/2), true
}

// spare returns a server that is well and not yet asked; nil when there is
// none.
func (a *candidates) spare() *server {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, s := range a.servers {
		if s.breaker.asked() && !s.latency.isSlow() {
			a.servers = append(a.servers[:i:i], a.servers[i+1:]...)
			return s
		}
	}
	return nil
}

// giveBack returns a server that was not asked after all.
func (a *candidates) giveBack(s *server) {
	if s == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.servers = append([]*server{s}, a.servers...)
}
