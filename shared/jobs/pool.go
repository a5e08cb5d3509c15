package jobs

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"postern/shared/table"
)

// The queue of one machine is a partition, in the order in which jobs came:
//
//	queue    <time>-<id>    the id, and on a line of its own the owner
const queuePartition = "queue"

const (
	atOnce    = 16              // jobs that run at a time
	rest      = 5 * time.Second // before what failed is tried anew; twice as long after each failure more,
	doublings = 6               // of which so many count
)

// Pool is the queue of one machine and the goroutines that work on it. What it
// was sent is in the table until it is done, so it outlives the process.
type Pool struct {
	table table.Table
	log   *slog.Logger
	woken chan struct{} // there is something to do

	mu      sync.Mutex
	known   map[string]bool     // by place: what waits, runs or rests
	waiting map[string][]*entry // by owner, in the order in which they came; none is empty
	running map[string]int      // by owner
	all     int                 // of running
	served  map[string]int      // by owner: when a job of theirs began last, of those who have any
	begun   int                 // jobs
}

// entry is a job in the queue.
type entry struct {
	place, id, owner string
	failures         int
}

// NewPool returns the Pool over t, of which there may be one.
func NewPool(t table.Table, log *slog.Logger) *Pool {
	return &Pool{table: t, log: log, woken: make(chan struct{}, 1), known: map[string]bool{}, waiting: map[string][]*entry{}, running: map[string]int{}, served: map[string]int{}}
}

// Send implements Queue.
func (p *Pool) Send(ctx context.Context, id, owner string) error {
	place := time.Now().UTC().Format("20060102T150405.000000Z-") + id
	if _, err := p.table.Put(ctx, table.Key{Partition: queuePartition, Sort: place}, []byte(id+"\n"+owner), 0, time.Now().Add(Keep)); err != nil {
		return err
	}
	p.add(place, id+"\n"+owner)
	return nil
}

// Run calls do, in working, with the id of every job in the queue, until taking
// ends, and returns when all calls have. A job leaves the queue when do returns nil;
// else it is tried anew, later and later.
//
// 16 run at a time. Whoever has n of them gets another while more than n are free:
// alone 8, and the more ask, the fewer each, so that there is room for who comes
// late. Next is who has the fewest, and of those who was served the longest ago.
func (p *Pool) Run(taking, working context.Context, do func(ctx context.Context, id string) error) {
	var calls sync.WaitGroup
	defer calls.Wait()
	p.load(taking)
	for {
		for taking.Err() == nil {
			e := p.next()
			if e == nil {
				break
			}
			calls.Go(func() { p.leave(working, e, do(working, e.id)) })
		}
		select {
		case <-p.woken:
		case <-taking.Done():
			return
		}
	}
}

// load adds what is in the queue from before, however long it takes to read it.
func (p *Pool) load(ctx context.Context) {
	after := ""
	for {
		page, err := p.table.List(ctx, queuePartition, table.Query{After: after, Limit: table.MaxList})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.log.LogAttrs(ctx, slog.LevelWarn, "the queue of jobs can't be read", slog.String("error", err.Error()))
			wait(ctx, rest)
			continue
		}
		for _, item := range page {
			p.add(item.Sort, string(item.Value))
			after = item.Sort
		}
		if len(page) < table.MaxList {
			return
		}
	}
}

// add lets a job wait that doesn't yet. value is the item's.
func (p *Pool) add(place, value string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[place] {
		return
	}
	p.known[place] = true
	id, owner, _ := strings.Cut(value, "\n")
	p.push(&entry{place: place, id: id, owner: owner})
}

// push has an entry wait. It is called with the lock held.
func (p *Pool) push(e *entry) {
	p.waiting[e.owner] = append(p.waiting[e.owner], e)
	p.wake()
}

func (p *Pool) wake() {
	select {
	case p.woken <- struct{}{}:
	default: // it is awake already
	}
}

// next takes the entry that is to run now; nil: none.
func (p *Pool) next() *entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	var first *entry
	for owner, list := range p.waiting {
		if p.running[owner] < atOnce-p.all && (first == nil || p.before(list[0], first)) {
			first = list[0]
		}
	}
	if first == nil {
		return nil
	}
	owner := first.owner
	if p.waiting[owner] = p.waiting[owner][1:]; len(p.waiting[owner]) == 0 {
		delete(p.waiting, owner)
	}
	p.all++
	p.running[owner]++
	p.begun++
	p.served[owner] = p.begun
	return first
}

// before reports whether a is to run before b, which is another owner's. It is
// called with the lock held.
func (p *Pool) before(a, b *entry) bool {
	return cmp.Or(
		cmp.Compare(p.running[a.owner], p.running[b.owner]),
		cmp.Compare(p.served[a.owner], p.served[b.owner]),
		cmp.Compare(a.place, b.place),
	) < 0
}

// leave takes what is done out of the queue, and gives what isn't a rest.
func (p *Pool) leave(ctx context.Context, e *entry, err error) {
	if err == nil {
		err = orNil(p.table.Delete(ctx, table.Key{Partition: queuePartition, Sort: e.place}, 1), table.ErrConflict)
	}
	if err != nil && ctx.Err() == nil {
		p.log.LogAttrs(ctx, slog.LevelWarn, "a job is tried anew", slog.String("job", e.id), slog.String("caller", e.owner), slog.String("error", err.Error()))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.running[e.owner]--; p.running[e.owner] == 0 {
		delete(p.running, e.owner)
		if p.waiting[e.owner] == nil {
			delete(p.served, e.owner)
		}
	}
	p.wake()
	if err == nil {
		delete(p.known, e.place)
		return
	}
	time.AfterFunc(rest<<min(e.failures, doublings), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.push(e)
	})
	e.failures++
}
