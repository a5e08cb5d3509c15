package table

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// MaxLarge is the largest value of a Large, in bytes.
const MaxLarge = 64 * MaxValue

// Large keeps values of up to MaxLarge bytes in a Table, with the promises that
// the Table makes for smaller ones: versions, expiry, and no value in halves.
//
// An item's own value, the head, is 'v' and the value if that fits, or 'p' and a
// description of its parts. Parts stand in partitions that begin with the item's
// and go on with a random id, so they are in nobody's List, and a role that
// reaches the one reaches the others. They are written before the head and
// removed after it. So what a crash leaves behind is parts of no head, which
// nobody reads and which go when they expire: give large values an expiry.
type Large struct{ Table Table }

// The first byte of a head.
const (
	whole = 'v'
	split = 'p'
)

// parts describes what a head stands for.
type parts struct {
	ID     string `json:"id"`   // random: no other write's parts have it
	Size   int    `json:"size"` // of the value, in bytes
	SHA256 []byte `json:"sha256"`
}

// tidyTimeout bounds the removal of parts, which is done even for who has left.
const tidyTimeout = 5 * time.Second

var errParts = errors.New("the parts of a large value don't make it")

// Get is Table's.
func (l Large) Get(ctx context.Context, key Key) (Item, error) {
	item, err := l.Table.Get(ctx, key)
	for err == nil {
		var p parts
		if p, err = describe(item.Value); err != nil {
			break
		}
		if p.ID == "" {
			item.Value = item.Value[1:]
			return item, nil
		}
		value, missing := l.join(ctx, key, p)
		if missing == nil {
			item.Value = value
			return item, nil
		}
		// Did another write, or the item's end, take them away meanwhile?
		head := item.Value
		item, err = l.Table.Get(ctx, key)
		if err == nil && bytes.Equal(item.Value, head) {
			err = missing
		}
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("reading a large value: %w", err)
	}
	return Item{}, err
}

// Put is Table's.
func (l Large) Put(ctx context.Context, key Key, value []byte, expected int64, expires time.Time) (int64, error) {
	if len(value) > MaxLarge {
		return 0, ErrTooLarge
	}
	before, err := l.partsOf(ctx, key, expected)
	if err != nil {
		return 0, err
	}
	var mine parts
	head := append([]byte{whole}, value...)
	if len(head) > MaxValue {
		if mine, err = l.split(ctx, key, value, expires); err != nil {
			return 0, err
		}
		description, err := json.Marshal(mine)
		if err != nil {
			return 0, err
		}
		head = append([]byte{split}, description...)
	}
	version, err := l.Table.Put(ctx, key, head, expected, expires)
	switch {
	case err == nil:
		l.tidy(ctx, key, before)
	case errors.Is(err, ErrConflict):
		l.tidy(ctx, key, mine) // after any other error they may be needed
	}
	return version, err
}

// Delete is Table's.
func (l Large) Delete(ctx context.Context, key Key, expected int64) error {
	before, err := l.partsOf(ctx, key, expected)
	if err != nil {
		return err
	}
	if err := l.Table.Delete(ctx, key, expected); err != nil {
		return err
	}
	l.tidy(ctx, key, before)
	return nil
}

// partsOf is what the head of that version stands for.
func (l Large) partsOf(ctx context.Context, key Key, version int64) (parts, error) {
	if version == 0 {
		return parts{}, nil
	}
	item, err := l.Table.Get(ctx, key)
	if errors.Is(err, ErrNotFound) || err == nil && item.Version != version {
		return parts{}, ErrConflict
	}
	if err != nil {
		return parts{}, err
	}
	p, _ := describe(item.Value) // what can't be read can be written over
	return p, nil
}

// describe reads a head; without an ID the value itself is in it.
func describe(head []byte) (p parts, err error) {
	if bytes.HasPrefix(head, []byte{whole}) {
		return parts{}, nil
	}
	description, found := bytes.CutPrefix(head, []byte{split})
	if !found || json.Unmarshal(description, &p) != nil || p.ID == "" || p.Size < MaxValue || p.Size > MaxLarge {
		return parts{}, errParts
	}
	return p, nil
}

// count is how many parts there are.
func (p parts) count() int { return (p.Size + MaxValue - 1) / MaxValue }

// key names a part. Each is a partition, because one partition of DynamoDB takes
// about a megabyte a second.
func (p parts) key(of Key, i int) Key {
	return Key{Partition: fmt.Sprintf("%s#%s#%d", of.Partition, p.ID, i), Sort: "part"}
}

// split writes a value's parts.
func (l Large) split(ctx context.Context, key Key, value []byte, expires time.Time) (parts, error) {
	sum := sha256.Sum256(value)
	p := parts{ID: rand.Text(), Size: len(value), SHA256: sum[:]}
	for i := range p.count() {
		part := value[i*MaxValue : min((i+1)*MaxValue, len(value))]
		if _, err := l.Table.Put(ctx, p.key(key, i), part, 0, expires); err != nil {
			l.tidy(ctx, key, p)
			return parts{}, fmt.Errorf("writing a large value: %w", err)
		}
	}
	return p, nil
}

// join reads a value's parts.
func (l Large) join(ctx context.Context, key Key, p parts) ([]byte, error) {
	value := make([]byte, 0, p.Size)
	for i := range p.count() {
		item, err := l.Table.Get(ctx, p.key(key, i))
		if errors.Is(err, ErrNotFound) {
			return nil, errParts
		}
		if err != nil {
			return nil, err
		}
		value = append(value, item.Value...)
	}
	if sum := sha256.Sum256(value); len(value) != p.Size || !bytes.Equal(sum[:], p.SHA256) {
		return nil, errParts
	}
	return value, nil
}

// tidy removes parts that no head stands for, as far as that goes.
func (l Large) tidy(ctx context.Context, key Key, p parts) {
	if p.ID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
	defer cancel()
	for i := range p.count() {
		l.Table.Delete(ctx, p.key(key, i), 1)
	}
}
