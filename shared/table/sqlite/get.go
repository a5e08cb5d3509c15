package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"

	sqlite "modernc.org/sqlite"

	"postern/shared/table"
)

// getter is a connection for Get alone, which every cold key pays for. It asks the
// driver itself: of such a read package sql would be a fifth.
type getter struct {
	sync.Mutex
	conn   driver.Conn // nil: not yet made
	stmt   driver.Stmt
	closed bool
}

// find reads an item from the file.
func (t *Table) find(key table.Key, now int64) (table.Item, error) {
	g := t.getter()
	defer g.Unlock()
	r, err := g.get(t.path, key, now)
	if errors.Is(err, io.EOF) {
		return table.Item{}, table.ErrNotFound
	}
	if err != nil {
		return table.Item{}, t.explain(err)
	}
	return r.item(key.Partition)
}

// getter locks the first that is free, whose pages are the likeliest to be in the
// processor's cache; if none is, it waits for one of them.
func (t *Table) getter() *getter {
	for i := range t.getters {
		if t.getters[i].TryLock() {
			return &t.getters[i]
		}
	}
	g := &t.getters[rand.IntN(readers)]
	g.Lock()
	return g
}

func (g *getter) open(path string) (err error) {
	if g.closed {
		return errors.New("the table is closed")
	}
	if g.conn, err = new(sqlite.Driver).Open(name(path, reading)); err != nil {
		return err
	}
	if g.stmt, err = g.conn.Prepare(getItem); err != nil {
		err = errors.Join(err, g.conn.Close())
		g.conn = nil
	}
	return err
}

// get returns the row of a key; its error is io.EOF where there is none.
func (g *getter) get(path string, key table.Key, now int64) (row, error) {
	if g.conn == nil {
		if err := g.open(path); err != nil {
			return row{}, err
		}
	}
	rows, err := g.stmt.(driver.StmtQueryContext).QueryContext(context.Background(), []driver.NamedValue{
		{Ordinal: 1, Value: key.Partition}, {Ordinal: 2, Value: key.Sort}, {Ordinal: 3, Value: now}})
	if err != nil {
		return row{}, err
	}
	defer rows.Close()
	var columns [3]driver.Value
	if err := rows.Next(columns[:]); err != nil {
		return row{}, err
	}
	version, isNumber := columns[0].(int64)
	expires, isSecond := columns[1].(int64)
	value, isBlob := columns[2].([]byte)
	if !isNumber || !isSecond || !isBlob {
		return row{}, fmt.Errorf("the item %q is not as postern writes items", key.Sort)
	}
	return row{key.Sort, version, expires, value}, nil
}

// close waits for who reads.
func (g *getter) close() error {
	g.Lock()
	defer g.Unlock()
	g.closed = true
	if g.conn == nil {
		return nil
	}
	err := errors.Join(g.stmt.Close(), g.conn.Close())
	g.conn = nil
	return err
}
