package storetest_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

type modelEngine struct {
	*storetest.Model
	onOp *atomic.Pointer[func(int)]
}

func newModel(*testing.T) modelEngine {
	return modelEngine{storetest.NewModel(), new(atomic.Pointer[func(int)])}
}

func (e modelEngine) Open(*testing.T) store.Store { return modelStore{e.Model.Open(), e.onOp} }

func (e modelEngine) Cut(uint64) storetest.Engine {
	return modelEngine{e.Clone(), new(atomic.Pointer[func(int)])}
}

func (e modelEngine) OnOp(fn func(int)) { e.onOp.Store(&fn) }

// modelStore takes each commit for one operation.
type modelStore struct {
	store.Store
	onOp *atomic.Pointer[func(int)]
}

func (s modelStore) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if fn := s.onOp.Load(); fn != nil && *fn != nil {
		(*fn)(0)
	}
	return s.Store.Commit(ctx, b)
}

func TestModel(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Engine { return newModel(t) })
}

func TestModelCrashes(t *testing.T) {
	t.Parallel()
	storetest.RunCrashes(t, func(t *testing.T) storetest.Crasher { return newModel(t) })
}
