package sqlite

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/shared/table"
)

// Bounds of counters.
const (
	writeEvery  = time.Second
	maxTallies  = 1 << 18 // items with counters in memory
	forgetAfter = 60      // seconds that an item was neither added to nor is to be written
	sweepEvery  = 10      // seconds between two batches of expired items
	sweepBatch  = 200
)

// counters are the owner's: those of every item that was added to lately stand
// here, and the file has them as they stood a second ago.
type counters struct {
	table *Table
	room  int // for items

	stop   chan struct{} // closed by close
	behind sync.WaitGroup
	saving sync.Mutex // one flush at a time; it alone forgets

	mu     sync.Mutex
	items  map[string]map[string]*tally // by partition and sort key
	n      int                          // of items
	dirty  []*tally
	second int // flushes so far
	failed error
	closed bool
}

// tally is an item's counters.
type tally struct {
	key     table.Key
	counts  []count
	expires int64
	dirty   bool // it is in counters.dirty
	touched int  // the second of the last addition
}

type count struct {
	name string
	n    int64
}

func (t *tally) live(now int64) bool { return t.expires > now }

// of is where a counter stands.
func of(counts []count, name string) int64 {
	for i := range counts {
		if counts[i].name == name {
			return counts[i].n
		}
	}
	return 0
}

func (t *tally) item() table.Item {
	item := table.Item{Key: t.key, Counters: make(map[string]int64, len(t.counts)), Expires: moment(t.expires)}
	for _, c := range t.counts {
		item.Counters[c.name] = c.n
	}
	return item
}

// get returns the item of a key that stands here. One that has expired has no
// counters.
func (c *counters) get(key table.Key, now int64) (item table.Item, here bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.items[key.Partition][key.Sort]
	if t == nil {
		return table.Item{}, false
	}
	if !t.live(now) {
		return table.Item{}, true
	}
	return t.item(), true
}

// add adds under one lock, and reads what isn't here under it too: that happens
// once an item.
func (c *counters) add(key table.Key, deltas []table.Delta, max, now, expires int64) (int64, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, false, errors.New("the table is closed")
	}
	t := c.items[key.Partition][key.Sort]
	if t == nil {
		var err error
		if t, err = c.load(key, now); err != nil {
			return 0, false, err
		}
	}
	var stand []count
	if t.live(now) {
		stand = t.counts
	}
	first := deltas[0].Counter
	if fits, err := table.Fits(deltas, max, func(name string) int64 { return of(stand, name) }); !fits {
		return of(stand, first), false, err
	}
	t.counts = stand
	for _, d := range deltas {
		t.add(d)
	}
	t.expires, t.touched = expires, c.second
	c.keep(t)
	return of(t.counts, first), true, nil
}

func (t *tally) add(d table.Delta) {
	for i := range t.counts {
		if t.counts[i].name == d.Counter {
			t.counts[i].n += d.By
			return
		}
	}
	t.counts = append(t.counts, count{strings.Clone(d.Counter), d.By})
}

// load reads an item that isn't here; what the file hasn't either has expired.
func (c *counters) load(key table.Key, now int64) (*tally, error) {
	if c.n >= c.room {
		return nil, cmp.Or(c.failed, errors.New("more counters are in use than fit into memory: try again in a minute"))
	}
	t := &tally{key: table.Key{Partition: strings.Clone(key.Partition), Sort: strings.Clone(key.Sort)}}
	item, err := c.table.find(key, now)
	if errors.Is(err, table.ErrNotFound) {
		t.expires = -never
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	if item.Counters == nil {
		return nil, errors.New("the item has a value: counters need an item of their own")
	}
	for name, n := range item.Counters {
		t.counts = append(t.counts, count{name, n})
	}
	t.expires = wholeSecond(item.Expires)
	return t, nil
}

// keep holds on to what was added to until it is written.
func (c *counters) keep(t *tally) {
	if t.dirty {
		return
	}
	t.dirty = true
	c.dirty = append(c.dirty, t)
	partition := c.items[t.key.Partition]
	if partition == nil {
		partition = map[string]*tally{}
		c.items[t.key.Partition] = partition
	}
	if partition[t.key.Sort] == nil {
		partition[t.key.Sort] = t
		c.n++
	}
}

// writeBehind flushes every second until close.
func (c *counters) writeBehind() {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
			c.flush() // it tells of an error itself
		}
	}
}

// close ends writing behind with a last flush.
func (c *counters) close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	close(c.stop)
	c.behind.Wait()
	if err := c.flush(); err != nil {
		return fmt.Errorf("the last additions to counters are lost: %w", err)
	}
	return nil
}

// flush writes in one transaction what was added since the last one. Where it
// fails, all is as before.
func (c *counters) flush() error {
	c.saving.Lock()
	defer c.saving.Unlock()
	if err := c.table.inPlace(); err != nil {
		return err
	}

	c.mu.Lock()
	c.second++
	second := c.second
	dirty := c.dirty
	c.dirty = nil
	written := make([]tally, len(dirty))
	for i, t := range dirty {
		t.dirty = false
		written[i] = *t
		written[i].counts = slices.Clone(t.counts)
	}
	c.mu.Unlock()

	var err error
	if len(written) > 0 || second%sweepEvery == 0 {
		err = c.table.explain(c.save(written, second%sweepEvery == 0))
	}

	c.mu.Lock()
	if err != nil {
		err = fmt.Errorf("counters stand in memory alone, since they can't be written: %w", err)
		for _, t := range dirty {
			c.keep(t)
		}
	}
	first := err != nil && c.failed == nil
	c.failed = err
	if second%forgetAfter == 0 {
		c.forget()
	}
	c.mu.Unlock()
	if first {
		c.table.tell(err)
	}
	return err
}

func (c *counters) save(written []tally, sweep bool) error {
	tx, err := c.table.write.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	save := tx.Stmt(c.table.save)
	for _, t := range written {
		value, err := json.Marshal(t.item().Counters)
		if err != nil {
			return err
		}
		if _, err := save.Exec(t.key.Partition, t.key.Sort, t.expires, value); err != nil {
			return err
		}
	}
	if sweep {
		if _, err := tx.Stmt(c.table.sweep).Exec(c.table.now().Unix(), sweepBatch); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// forget drops what is written and wasn't added to lately.
func (c *counters) forget() {
	for name, partition := range c.items {
		for sort, t := range partition {
			if !t.dirty && c.second-t.touched >= forgetAfter {
				delete(partition, sort)
				c.n--
			}
		}
		if len(partition) == 0 {
			delete(c.items, name)
		}
	}
}

// list returns what of a partition stands here, in the order of q and no more
// than it can need. What has expired has no counters: it hides what the file
// has.
func (c *counters) list(partition string, q table.Query, now int64) []table.Item {
	var all []*tally
	c.mu.Lock()
	for sort, t := range c.items[partition] {
		if q.After == "" || order(q, q.After, sort) < 0 {
			all = append(all, t)
		}
	}
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b *tally) int { return order(q, a.key.Sort, b.key.Sort) })

	var items []table.Item
	c.mu.Lock()
	defer c.mu.Unlock()
	for live := 0; live < q.Limit && len(items) < len(all); {
		t := all[len(items)]
		item := table.Item{Key: t.key}
		if t.live(now) {
			item = t.item()
			live++
		}
		items = append(items, item)
	}
	return items
}
