// Package sqlite is a table.Table in a file of one machine's data folder: what
// `postern run` keeps its keys, audit and counters in.
//
// One server owns the folder (Open): it holds a lock that dies with its process.
// The CLI works Beside it, or alone, on the same file: SQLite's write-ahead log
// lets one process write while all others read, and a writer waits for its turn.
// A Put or Delete that returned is on the disk. Only the owner adds to counters:
// it keeps them in memory and writes them behind, every second and at Close, so
// that a crash forgets at most the last second's additions. Its own Get and List
// see them as they stand; those beside it, as they were last written.
//
// A file that is not ours, of a later version, or damaged is refused, and left
// as it was; so is a folder that others may write to. If the file is moved, deleted
// or replaced while it is open, every operation fails from the next write on, or
// within a second at the owner's, until the table is opened anew: a revocation
// by the CLI would never come here, and what is written here would vanish.
// Expired items are deleted from the file in small batches.
//
// A context is looked at before a read, which takes microseconds and is not
// given up; a write waits with it for its turn.
package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern/shared/table"
)

// Config says where a Table is.
type Config struct {
	Dir      string           // the data folder; made, for its owner's eyes only, where there is none
	Existing bool             // of Beside: nothing is made, and where there is no database the error is fs.ErrNotExist
	Now      func() time.Time // nil: time.Now
	Err      func(error)      // told when counters can't be written, once until they can; they are kept, and written with the next. Told too that the file was lost. nil: nobody is told
}

// Table is a table.Table. Close it.
type Table struct {
	path     string
	file     fs.FileInfo           // what was opened there
	lost     atomic.Pointer[error] // that it isn't there any more; nil: it is
	tell     func(error)
	now      func() time.Time
	free     func(dir string) (uint64, error) // bytes left on the disk
	write    *sql.DB                          // one connection: writers of this process queue in order
	read     *sql.DB                          // for List; without contexts to cancel, for which the driver starts a goroutine each
	getters  [readers]getter                  // for Get
	unlock   func()                           // nil: beside the owner
	counters *counters                        // nil: beside the owner
	closing  sync.Once

	list, listBack, insert, update, remove, save, sweep *sql.Stmt
}

// never is the expiry of what has none.
const never = math.MaxInt64

// The statements. A list that begins nowhere begins before or behind all keys.
const (
	getItem    = "SELECT ver, exp, val FROM items WHERE pk = ? AND sk = ? AND exp > ?"
	listItems  = "SELECT sk, ver, exp, val FROM items WHERE pk = ?1 AND sk > ?2 AND exp > ?3 ORDER BY sk"
	listBack   = "SELECT sk, ver, exp, val FROM items WHERE pk = ?1 AND sk < ?2 AND exp > ?3 ORDER BY sk DESC"
	insertItem = "INSERT INTO items (pk, sk, ver, exp, val) VALUES (?1, ?2, 1, ?4, ?5)" +
		" ON CONFLICT (pk, sk) DO UPDATE SET ver = 1, exp = excluded.exp, val = excluded.val WHERE items.exp <= ?3"
	updateItem   = "UPDATE items SET ver = ver + 1, exp = ?4, val = ?5 WHERE pk = ?1 AND sk = ?2 AND exp > ?3 AND ver = ?6"
	deleteItem   = "DELETE FROM items WHERE pk = ?1 AND sk = ?2 AND exp > ?3 AND ver = ?4"
	saveCounters = "INSERT OR REPLACE INTO items (pk, sk, ver, exp, val) VALUES (?1, ?2, 0, ?3, ?4)"
	deleteOld    = "DELETE FROM items WHERE rowid IN (SELECT rowid FROM items WHERE exp < 9223372036854775807 AND exp <= ?1 LIMIT ?2)"
)

const behindAll = "\xff" // no UTF-8 begins so

// Open opens the table of a data folder for the one server that owns it. If the
// folder has an owner, the error says so.
func Open(c Config) (*Table, error) {
	dir, err := folder(c)
	if err != nil {
		return nil, err
	}
	unlock, err := own(dir)
	if err != nil {
		return nil, err
	}
	t, err := open(c, dir)
	if err != nil {
		unlock()
		return nil, err
	}
	t.unlock = unlock
	t.counters = &counters{table: t, room: maxTallies, items: map[string]map[string]*tally{}, stop: make(chan struct{})}
	t.counters.behind.Go(t.counters.writeBehind)
	return t, nil
}

// Beside opens the table of a data folder beside its owner, or without one. Add
// is refused there, since counters are in the owner's memory.
func Beside(c Config) (*Table, error) {
	dir, err := folder(c)
	if err != nil {
		return nil, err
	}
	return open(c, dir)
}

// folder makes the data folder if it may, and names it whatever the working
// directory.
func folder(c Config) (string, error) {
	if c.Dir == "" {
		return "", errors.New("no data folder is named")
	}
	if !c.Existing {
		if err := os.MkdirAll(c.Dir, 0o700); err != nil {
			return "", fmt.Errorf("making the data folder: %w: name another, or let this user write where it is to be", err)
		}
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return "", err
	}
	return dir, checkFolder(dir)
}

func open(c Config, dir string) (*Table, error) {
	t := &Table{path: filepath.Join(dir, fileName), now: c.Now, tell: c.Err, free: free}
	if t.now == nil {
		t.now = time.Now
	}
	if t.tell == nil {
		t.tell = func(error) {}
	}
	create := os.O_CREATE
	if c.Existing {
		create = 0
	}
	var err error
	if t.file, err = check(t.path, create); err != nil {
		return nil, err
	}
	if err = t.connect(); err == nil {
		err = t.inPlace() // what was opened is what was checked
	}
	if err != nil {
		return nil, errors.Join(t.explain(err), t.disconnect())
	}
	return t, nil
}

// Close writes what is to be written behind, and lets the folder go. Its error
// says that counters were lost. A second Close does nothing.
func (t *Table) Close() (err error) {
	t.closing.Do(func() {
		if t.counters != nil {
			defer t.unlock() // last: the next owner finds all written
			err = t.counters.close()
		}
		err = errors.Join(err, t.disconnect())
	})
	return err
}

func (t *Table) disconnect() error {
	var err error
	for i := range t.getters {
		err = errors.Join(err, t.getters[i].close())
	}
	for _, db := range []*sql.DB{t.read, t.write} { // the writer last: it empties the write-ahead log
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}
	return err
}

// Get implements table.Table.
func (t *Table) Get(ctx context.Context, key table.Key) (table.Item, error) {
	if err := cmp.Or(ctx.Err(), table.CheckKey(key), t.known()); err != nil {
		return table.Item{}, err
	}
	now := t.now().Unix()
	if t.counters != nil {
		if item, here := t.counters.get(key, now); here {
			if item.Counters == nil {
				return table.Item{}, table.ErrNotFound
			}
			return item, nil
		}
	}
	return t.find(key, now)
}

// Put implements table.Table.
func (t *Table) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	if err := cmp.Or(ctx.Err(), table.CheckPut(key, value, expected)); err != nil {
		return 0, err
	}
	if value == nil {
		value = []byte{} // nil would be NULL
	}
	stmt, args := t.insert, []any{t.now().Unix(), wholeSecond(expires), value}
	if expected > 0 {
		stmt, args = t.update, append(args, expected)
	}
	if err := t.change(ctx, stmt, key, args...); err != nil {
		return 0, err
	}
	return expected + 1, nil
}

// Delete implements table.Table.
func (t *Table) Delete(ctx context.Context, key table.Key, expected int64) error {
	if err := cmp.Or(ctx.Err(), table.CheckDelete(key, expected)); err != nil {
		return err
	}
	return t.change(ctx, t.remove, key, t.now().Unix(), expected)
}

// change runs a statement that changes an item, or none where it conflicts.
func (t *Table) change(ctx context.Context, stmt *sql.Stmt, key table.Key, args ...any) error {
	if err := t.inPlace(); err != nil {
		return err
	}
	result, err := stmt.ExecContext(ctx, append([]any{key.Partition, key.Sort}, args...)...)
	if err != nil {
		return t.explain(err)
	}
	if n, err := result.RowsAffected(); n == 0 || err != nil {
		return cmp.Or(err, table.ErrConflict)
	}
	return nil
}

// List implements table.Table. The owner's counters stand for what the file has
// of them.
func (t *Table) List(ctx context.Context, partition string, q table.Query) ([]table.Item, error) {
	if err := cmp.Or(ctx.Err(), table.CheckList(partition, q), t.known()); err != nil {
		return nil, err
	}
	now := t.now().Unix()
	var mine []table.Item
	if t.counters != nil {
		mine = t.counters.list(partition, q, now)
	}
	stmt, after := t.list, q.After
	if q.Reversed {
		stmt, after = t.listBack, cmp.Or(q.After, behindAll)
	}
	rows, err := stmt.Query(partition, after, now)
	if err != nil {
		return nil, t.explain(err)
	}
	defer rows.Close()
	var items []table.Item
	for len(items) < q.Limit && rows.Next() {
		var r row
		if err := rows.Scan(&r.sort, &r.version, &r.expires, &r.value); err != nil {
			return nil, t.explain(err)
		}
		here := false
		for len(mine) > 0 && order(q, mine[0].Sort, r.sort) <= 0 {
			here = mine[0].Sort == r.sort
			items, mine = appendLive(items, mine[0]), mine[1:]
		}
		if here {
			continue
		}
		item, err := r.item(partition)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	if err := rows.Err(); err != nil {
		return nil, t.explain(err)
	}
	for _, item := range mine {
		items = appendLive(items, item)
	}
	return items[:min(len(items), q.Limit)], nil
}

// order compares two sort keys in the order of a list.
func order(q table.Query, a, b string) int {
	if q.Reversed {
		a, b = b, a
	}
	return strings.Compare(a, b)
}

// appendLive appends an item that stands in memory unless it has expired.
func appendLive(items []table.Item, item table.Item) []table.Item {
	if item.Counters == nil {
		return items
	}
	return append(items, item)
}

// Add implements table.Table.
func (t *Table) Add(ctx context.Context, key table.Key, deltas []table.Delta, max int64, expires time.Time) (int64, bool, error) {
	if err := cmp.Or(ctx.Err(), table.CheckAdd(key, deltas), t.known()); err != nil {
		return 0, false, err
	}
	if t.counters == nil {
		return 0, false, fmt.Errorf("counters of %s are added to by the server that owns it alone", t.path)
	}
	return t.counters.add(key, deltas, max, t.now().Unix(), wholeSecond(expires))
}

// row is an item as the file has it.
type row struct {
	sort             string
	version, expires int64
	value            []byte
}

func (r row) item(partition string) (table.Item, error) {
	item := table.Item{Key: table.Key{Partition: partition, Sort: r.sort}, Version: r.version, Expires: moment(r.expires)}
	if r.version > 0 {
		item.Value = r.value
		return item, nil
	}
	if err := json.Unmarshal(r.value, &item.Counters); err != nil {
		return table.Item{}, fmt.Errorf("the counters of %q: %w", r.sort, err)
	}
	return item, nil
}

// wholeSecond is an expiry as it is stored; moment is its inverse.
func wholeSecond(t time.Time) int64 {
	if t.IsZero() {
		return never
	}
	return table.WholeSecond(t).Unix()
}

func moment(second int64) time.Time {
	if second == never {
		return time.Time{}
	}
	return time.Unix(second, 0).UTC()
}
