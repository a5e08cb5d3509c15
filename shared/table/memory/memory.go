// Package memory is a table.Table in the memory of one process: for tests, and
// for `sam local`, where each function has a table of its own.
//
// It is bounded by what is put into it and by nothing else, so it is no store
// for a server. An expired item is removed when it is next come across.
package memory

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"postern/shared/table"
)

// Table is a table.Table. Its zero value is ready and empty.
type Table struct {
	Now func() time.Time // nil: time.Now

	mu         sync.Mutex
	partitions map[string]map[string]table.Item
}

// Get implements table.Table.
func (t *Table) Get(ctx context.Context, key table.Key) (table.Item, error) {
	if err := cmp.Or(ctx.Err(), table.CheckKey(key)); err != nil {
		return table.Item{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if item, ok := t.find(key); ok {
		return clone(item), nil
	}
	return table.Item{}, table.ErrNotFound
}

// Put implements table.Table.
func (t *Table) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	if err := cmp.Or(ctx.Err(), table.CheckPut(key, value, expected)); err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if item, _ := t.find(key); !is(item, expected) {
		return 0, table.ErrConflict
	}
	t.set(table.Item{Key: key, Value: bytes.Clone(value), Version: expected + 1, Expires: table.WholeSecond(expires)})
	return expected + 1, nil
}

// Delete implements table.Table.
func (t *Table) Delete(ctx context.Context, key table.Key, expected int64) error {
	if err := cmp.Or(ctx.Err(), table.CheckDelete(key, expected)); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if item, _ := t.find(key); !is(item, expected) {
		return table.ErrConflict
	}
	delete(t.partitions[key.Partition], key.Sort)
	return nil
}

// is says whether an item, an absent one too, is of a version.
func is(item table.Item, version int64) bool {
	return item.Counters == nil && item.Version == version
}

// List implements table.Table.
func (t *Table) List(ctx context.Context, partition string, q table.Query) ([]table.Item, error) {
	if err := cmp.Or(ctx.Err(), table.CheckList(partition, q)); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	sorts := slices.Sorted(maps.Keys(t.partitions[partition]))
	if q.Reversed {
		slices.Reverse(sorts)
	}
	var items []table.Item
	for _, sort := range sorts {
		if q.After != "" && (sort == q.After || (sort < q.After) != q.Reversed) {
			continue
		}
		if item, ok := t.find(table.Key{Partition: partition, Sort: sort}); ok {
			items = append(items, clone(item))
		}
		if len(items) == q.Limit {
			break
		}
	}
	return items, nil
}

// Add implements table.Table.
func (t *Table) Add(ctx context.Context, key table.Key, deltas []table.Delta, max int64, expires time.Time) (int64, bool, error) {
	if err := cmp.Or(ctx.Err(), table.CheckAdd(key, deltas)); err != nil {
		return 0, false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	item, there := t.find(key)
	if there && item.Counters == nil {
		return 0, false, errors.New("the item has a value: counters need an item of their own")
	}
	first := deltas[0].Counter
	if fits, err := table.Fits(deltas, max, func(name string) int64 { return item.Counters[name] }); !fits {
		return item.Counters[first], false, err
	}
	counters := map[string]int64{}
	maps.Copy(counters, item.Counters)
	for _, d := range deltas {
		counters[d.Counter] += d.By
	}
	t.set(table.Item{Key: key, Counters: counters, Expires: table.WholeSecond(expires)})
	return counters[first], true, nil
}

// find returns an item that hasn't expired, and forgets one that has.
func (t *Table) find(key table.Key) (table.Item, bool) {
	item, there := t.partitions[key.Partition][key.Sort]
	if !there {
		return table.Item{}, false
	}
	if t.expired(item) {
		delete(t.partitions[key.Partition], key.Sort)
		return table.Item{}, false
	}
	return item, true
}

func (t *Table) expired(item table.Item) bool {
	now := time.Now
	if t.Now != nil {
		now = t.Now
	}
	return !item.Expires.IsZero() && !now().Before(item.Expires)
}

func (t *Table) set(item table.Item) {
	if t.partitions == nil {
		t.partitions = map[string]map[string]table.Item{}
	}
	if t.partitions[item.Partition] == nil {
		t.partitions[item.Partition] = map[string]table.Item{}
	}
	t.partitions[item.Partition][item.Sort] = item
}

// clone is an item that its receiver may change.
func clone(item table.Item) table.Item {
	item.Value = bytes.Clone(item.Value)
	item.Counters = maps.Clone(item.Counters)
	return item
}
