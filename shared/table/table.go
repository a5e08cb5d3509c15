// Package table is the one place where anything lasts: five operations on items
// that a partition and a sort key name.
//
//	Get     one item, as it stands after every write that was acknowledged
//	Put     a value, if the item's version is the expected one
//	Delete  an item, if its version is the expected one
//	List    a partition's items in the order of their sort keys, or reversed
//	Add     to counters of one item in one atomic step, up to a maximum
//
// There are no transactions, no scans and no indexes: who needs an order puts it
// into the sort key, and who must not lose another's write says which version it
// has read. Domain packages are written once, on top of Table; the leaves below
// it (memory, sqlite, dynamodb) are chosen by mains, and package tabletest holds
// what all of them promise.
//
// An item expires at a whole second (a fraction is rounded up). From then on it
// is absent for every operation, whatever the store's own clean-up does and
// whenever it does it.
//
// An item has a value, which Put writes, or counters, which Add does; nobody
// does both to one item. Every error but those below means that the store could
// not be asked, and of a write leaves open whether it happened, or that nobody
// should ask so: a key too long, a limit of 0. Then nothing did.
package table

import (
	"context"
	"errors"
	"math"
	"time"
)

// Errors that every leaf returns as they are, or wrapped.
var (
	// ErrNotFound is Get's for an item that there is not.
	ErrNotFound = errors.New("no such item")
	// ErrConflict is Put's and Delete's where the item has another version than
	// the expected one, or is there, or isn't. Nothing was changed.
	ErrConflict = errors.New("the item has another version")
	// ErrTooLarge is Put's for a value above MaxValue.
	ErrTooLarge = errors.New("value too large for one item")
)

// MaxValue is the largest value of one item, in bytes; DynamoDB takes 400 KB with
// all names and keys.
const MaxValue = 350 << 10

// MaxKey is the longest half of a Key, in bytes. None is empty, and each is UTF-8.
const MaxKey = 1 << 10

// MaxList is the highest limit of a List.
const MaxList = 1000

// Key names an item. Sort keys are ordered by their bytes.
type Key struct{ Partition, Sort string }

// Item is what a Key names.
type Item struct {
	Key
	Value    []byte           // nil of an item with counters
	Version  int64            // of Value: 1 at first, one more with each Put; 0 of an item with counters
	Counters map[string]int64 // nil of an item with a value
	Expires  time.Time        // a whole second, UTC; zero: never
}

// Table is a store of items. It is safe for concurrent use, in one process and,
// where the leaf allows several, between them.
type Table interface {
	// Get returns an item, or ErrNotFound.
	Get(ctx context.Context, key Key) (Item, error)

	// Put writes a value over the version that is expected; 0 says that there
	// must be no item. It returns the new version, which is expected+1. A zero
	// expires is never.
	Put(ctx context.Context, key Key, value []byte, expected int64, expires time.Time) (version int64, err error)

	// Delete removes an item of the expected version, which is 1 at least.
	Delete(ctx context.Context, key Key, expected int64) error

	// List returns up to q.Limit items of a partition; fewer only where there
	// are no more. A partition that nobody wrote to is empty.
	List(ctx context.Context, partition string, q Query) ([]Item, error)

	// Add adds each delta to its counter, all of them or none: none if the first
	// one's counter would come to more than max. It returns where that counter
	// stands then. A counter begins at 0. The item expires at expires, whatever
	// was said before; a refused Add leaves that alone too. The deltas, one at
	// least, name different counters.
	//
	// A lost reply may make the leaf add once more, which errs on the side of
	// counting too much. So it sends an Add whose first delta is negative once
	// only.
	Add(ctx context.Context, key Key, deltas []Delta, max int64, expires time.Time) (value int64, added bool, err error)
}

// Query says which part of a partition to list.
type Query struct {
	After    string // the sort key to go on behind, itself excluded; "": from the beginning
	Reversed bool   // from the last to the first; After is excluded there too
	Limit    int    // 1 to MaxList
}

// Delta is what is added to one counter.
type Delta struct {
	Counter string // 1 to 255 bytes of UTF-8; not pk, sk, ver, exp or val, which DynamoDB's items are made of
	By      int64
}

// NoMax is the max of an Add that is not to be refused.
const NoMax int64 = math.MaxInt64
