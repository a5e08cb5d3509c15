package jobs

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"postern/shared/table"
)

// The queue of one machine is a partition, in the order in which jobs came:
//
//	queue    <time>-<id>    the id
const queuePartition = "queue"

const (
	atOnce    = 8               // jobs that run at a time
	pageSize  = 100             // of the queue
	restAfter = 5 * time.Second // before what failed is tried anew
)

// Pool is the queue of one machine and the goroutines that work on it. What it
// was sent is in the table until it is done, so it outlives the process.
type Pool struct {
	table table.Table
	log   *slog.Logger
	woken chan struct{} // there is something new

	mu   sync.Mutex
	busy map[string]bool // by place: what runs, and what rests after a failure
}

// NewPool returns the Pool over t, of which there may be one.
func NewPool(t table.Table, log *slog.Logger) *Pool {
	return &Pool{table: t, log: log, woken: make(chan struct{}, 1), busy: map[string]bool{}}
}

// Send implements Queue.
func (p *Pool) Send(ctx context.Context, id string) error {
	place := time.Now().UTC().Format("20060102T150405.000000Z-") + id
	if _, err := p.table.Put(ctx, table.Key{Partition: queuePartition, Sort: place}, []byte(id), 0, time.Now().Add(Keep)); err != nil {
		return err
	}
	p.wake()
	return nil
}

func (p *Pool) wake() {
	select {
	case p.woken <- struct{}{}:
	default: // it is awake already
	}
}

// Run calls do, in finish, with the id of every job in the queue, 8 at a time,
// until ctx ends, and returns when all calls have. A job leaves the queue when do
// returns nil; else it is tried anew.
func (p *Pool) Run(ctx, finish context.Context, do func(ctx context.Context, id string) error) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, atOnce)
	for {
		err := p.each(ctx, func(place, id string) {
			if ctx.Err() != nil || !p.take(place) {
				return
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				p.free(place)
				return
			}
			running.Go(func() {
				err := do(finish, id)
				<-slots
				p.leave(finish, place, err)
			})
		})
		if err != nil && ctx.Err() == nil {
			p.log.LogAttrs(ctx, slog.LevelWarn, "the queue of jobs can't be read", slog.String("error", err.Error()))
			time.AfterFunc(restAfter, p.wake)
		}
		select {
		case <-p.woken:
		case <-ctx.Done():
			return
		}
	}
}

// each calls f with what is in the queue, in order.
func (p *Pool) each(ctx context.Context, f func(place, id string)) error {
	after := ""
	for {
		page, err := p.table.List(ctx, queuePartition, table.Query{After: after, Limit: pageSize})
		if err != nil {
			return err
		}
		for _, item := range page {
			f(item.Sort, string(item.Value))
			after = item.Sort
		}
		if len(page) < pageSize || ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// take marks a place as busy, or reports that it was.
func (p *Pool) take(place string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy[place] {
		return false
	}
	p.busy[place] = true
	return true
}

func (p *Pool) free(place string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, place)
}

// leave takes what is done out of the queue, and gives what isn't a rest.
func (p *Pool) leave(ctx context.Context, place string, err error) {
	if err == nil {
		err = orNil(p.table.Delete(ctx, table.Key{Partition: queuePartition, Sort: place}, 1), table.ErrConflict)
	}
	if err == nil {
		p.free(place)
		return
	}
	if ctx.Err() == nil {
		p.log.LogAttrs(ctx, slog.LevelWarn, "a job is tried anew", slog.String("place", place), slog.String("error", err.Error()))
	}
	time.AfterFunc(restAfter, func() {
		p.free(place)
		p.wake()
	})
}
