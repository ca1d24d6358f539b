package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// task is something that runs until its context ends.
type task struct {
	name string
	run  func(context.Context) error
}

// phase is a set of tasks that stop together. Phases stop in the order mail
// flows, each waiting for the one before: first nothing comes in any more,
// then nothing is on its way, then the ground under it goes.
type phase []task

// runPhases runs all tasks until ctx ends or one of them fails, then stops
// phase after phase, and returns what failed.
func runPhases(ctx context.Context, phases []phase) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	var failed error
	type started struct {
		cancel context.CancelFunc
		done   *sync.WaitGroup
	}
	var all []started
	for _, p := range phases {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		s := started{cancel, new(sync.WaitGroup)}
		for _, t := range p {
			s.done.Go(func() {
				err := t.run(ctx)
				switch {
				case err != nil:
					err = fmt.Errorf("%s: %w", t.name, err)
				case ctx.Err() == nil:
					err = fmt.Errorf("%s ended by itself", t.name)
				default:
					return
				}
				mu.Lock()
				failed = errors.Join(failed, err)
				mu.Unlock()
				stop()
			})
		}
		all = append(all, s)
	}
	<-running.Done()
	for _, s := range all {
		s.cancel()
		s.done.Wait()
	}
	return failed
}
