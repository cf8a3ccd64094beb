package resolver

import (
	"context"
	"sync"
	"time"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// tasks owns goroutines. They end when ctx does.
type tasks struct {
	ctx context.Context
	wg  sync.WaitGroup
}

// flights lets identical questions that are asked at the same time wait for one answer. Without that, everyone who
// can ask could have many queries for one name under way, and forge a reply to any of them. See RFC 5452, Section 5.
type flights struct {
	tasks   *tasks
	timeout time.Duration

	mu sync.Mutex // guards the following, and what flight says it does
	m  map[string]*flight
}

// flight is one piece of work that several wait for.
type flight struct {
	cancel context.CancelFunc

	waiting int // guarded by flights.mu

	done  chan struct{} // closed when the following are set
	reply *wire.Response
	err   error
}

// do returns what work returns for name, which is called once for everybody who asks for name meanwhile. Those
// whose ctx is done leave. The last to leave ends the work and waits for its end, so that no work goes on for a query
// whose slot was given back. Work must end when its context does.
func (f *flights) do(ctx context.Context, name string, work func(context.Context) (*wire.Response, error)) (*wire.Response, error) {
	fl := f.join(name, work)
	select {
	case <-fl.done:
		return fl.reply, fl.err
	case <-ctx.Done():
		f.leave(name, fl)
		return nil, context.Cause(ctx)
	}
}

// join returns the flight of name, which it starts if there is none.
func (f *flights) join(name string, work func(context.Context) (*wire.Response, error)) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.m[name]; fl != nil {
		fl.waiting++
		return fl
	}
	ctx, cancel := context.WithTimeout(f.tasks.ctx, f.timeout)
	fl := &flight{cancel: cancel, waiting: 1, done: make(chan struct{})}
	f.m[name] = fl
	f.tasks.wg.Go(func() {
		defer cancel()
		fl.reply, fl.err = work(ctx)
		f.forget(name, fl)
		close(fl.done)
	})
	return fl
}

// leave ends the work of fl if nobody else waits for it.
func (f *flights) leave(name string, fl *flight) {
	f.mu.Lock()
	fl.waiting--
	last := fl.waiting == 0
	if last {
		fl.cancel()
		f.forgetLocked(name, fl)
	}
	f.mu.Unlock()
	if last {
		<-fl.done
	}
}

// forget lets the next question for name start anew.
func (f *flights) forget(name string, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgetLocked(name, fl)
}

func (f *flights) forgetLocked(name string, fl *flight) {
	if f.m[name] == fl {
		delete(f.m, name)
	}
}
